"""Proxy of BPG that needs no training, and its rate estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from vcm.errors import ArgumentError
from vcm.nn.gains import as_batch
from vcm.nn.proxy.base import Proxy, ProxyOutput
from vcm.types import Settings
from vcm.validation import check_choice

SCALE = (0, 51)
"""QPs of HEVC."""
QP_OFFSETS = {"rate": 2, "x265": 3, "jctvc": 0}
"""Difference between a quality of BPG and the QP of the slice, see `vcm.codecs.BPGCodec`."""
BLOCK = 8
_DC_WEIGHT = 0.3
"""Weight of the DC coefficient, most of which intra prediction removes."""


class TransformProxy(Proxy):
    """Proxy of BPG without parameters: the unchanged image, and a rate estimated from DCT coefficients.

    ```
    x ─┬─► x_hat
       └─► Y'CbCr 4:2:0 ─► 8×8 DCT ─► Σ ½ log2(1 + (c / Δ)²) / (H·W) ─► bpp,   Δ = 2^((QP − 4) / 6)
    ```

    The estimate is only proportional to BPG's rate (`relative_rate`): training scales its gradient by the
    ratio of BPG's actual rate to the estimate. See `transform_bits`.

    Args:
        qualities: Smallest and largest quality of BPG, within 0 to 51.
        qp_convention: Mapping from qualities to QPs: "rate", "x265" or "jctvc", as for `BPGCodec`.

    Raises:
        ArgumentError: If the qualities are out of range or not ascending, or the mapping is unknown.
    """

    relative_rate = True
    takes_offsets = True

    def __init__(self, qualities: Sequence[float] = SCALE, qp_convention: str = "rate") -> None:
        super().__init__("bpg", qualities)
        self.qp_convention = check_choice("qp_convention", qp_convention, QP_OFFSETS)
        self.codec_settings = {"qp_convention": self.qp_convention, "chroma": "420", "lossless": False}
        if not SCALE[0] <= self.qualities[0] or not self.qualities[1] <= SCALE[1]:
            raise ArgumentError(
                "qualities", expected=f"QPs within {SCALE[0]} to {SCALE[1]}", got=list(qualities)
            )

    def forward(
        self,
        x: Tensor,
        quality: float | Tensor,
        *,
        offsets: Sequence[Tensor | None] | None = None,
        block: int = 32,
    ) -> ProxyOutput:
        """See `Proxy.forward`.

        Args:
            x: See `Proxy.forward`.
            quality: See `Proxy.forward`.
            offsets: QP offsets of each image's blocks, (⌈H / block⌉, ⌈W / block⌉); None for none.
            block: Block size of the offsets in pixels, a multiple of 8.

        Raises:
            ArgumentError: If a quality is out of range, or the offsets do not fit the images.
        """
        self.condition(quality, x)
        qps = (as_batch(quality, x).float() - QP_OFFSETS[self.qp_convention]).clamp(min=0)
        maps = [None] * len(x) if offsets is None else list(offsets)
        if len(maps) != len(x):
            raise ArgumentError(
                "offsets", expected=f"one map or None for each of {len(x)} images", got=len(maps)
            )
        with torch.autocast(x.device.type, enabled=False):
            bits = [
                transform_bits(image, quantization_steps(qp, those, block, image.shape[-2:], x.device))
                for image, qp, those in zip(x.float(), qps.expand(len(x)).tolist(), maps, strict=True)
            ]
        return ProxyOutput(x, torch.stack(bits) / (x.shape[-2] * x.shape[-1]))

    def architecture(self) -> Settings:
        """See `Proxy.architecture`."""
        return {
            "network": type(self).__name__,
            "qualities": list(self.qualities),
            "qp_convention": self.qp_convention,
        }


def transform_bits(image: Tensor, steps: Tensor) -> Tensor:
    """Estimate the bits of an image coded by 8×8 transform blocks; differentiable.

    ```
    Σ ½ log2(1 + (c / Δ)²)   over the DCT coefficients c of Y'CbCr, chroma halved in both directions
    ```

    Only relative changes mean anything: callers scale the estimate to the real codec's bits.

    Args:
        image: (3, H, W) RGB in [0, 1].
        steps: (⌈H / 8⌉, ⌈W / 8⌉) quantization steps Δ of the blocks, in 8-bit levels, above 0.

    Returns:
        A scalar.

    Raises:
        ArgumentError: If a shape is wrong.
    """
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ArgumentError("image", expected="(3, H, W)", got=tuple(image.shape))
    rows, columns = (math.ceil(side / BLOCK) for side in image.shape[1:])
    if steps.shape != (rows, columns):
        raise ArgumentError("steps", expected=f"shape {(rows, columns)}", got=tuple(steps.shape))
    red, green, blue = 255 * image
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([0.564 * (blue - luma), 0.713 * (red - luma)])
    halved = F.avg_pool2d(chroma, 2, ceil_mode=True, count_include_pad=False)
    bits = _bits(luma[None], steps)
    return bits + _bits(halved, steps[::2, ::2])


def quantization_steps(
    qp: float, offsets: Tensor | None, block: int, size: tuple[int, int] | torch.Size, device: torch.device
) -> Tensor:
    """Compute the quantization steps of 8×8 blocks in 8-bit levels: 2^((QP − 4) / 6) of ITU-T H.265.

    Args:
        qp: QP of the slice.
        offsets: QP offsets (rows, columns) of the blocks; None for none.
        block: Block size in pixels, a multiple of 8.
        size: (height, width) of the image.
        device: Device of the result.

    Returns:
        Steps (⌈height / 8⌉, ⌈width / 8⌉).

    Raises:
        ArgumentError: If the block size is not a multiple of 8, or there is not one offset per block.
    """
    if block < BLOCK or block % BLOCK:
        raise ArgumentError("block", expected=f"a multiple of {BLOCK} pixels", got=block)
    if offsets is not None and offsets.shape != (expected := tuple(-(-side // block) for side in size)):
        raise ArgumentError(
            "offsets", expected=f"of shape {expected}, one per block", got=tuple(offsets.shape)
        )
    rows, columns = (math.ceil(side / BLOCK) for side in size)
    qps = torch.full((rows, columns), float(qp), device=device)
    if offsets is not None:
        spread = F.interpolate(
            offsets.to(device).float()[None, None], scale_factor=block // BLOCK, mode="nearest"
        )
        qps += spread[0, 0, :rows, :columns]
    return ((qps.clamp(0, 51) - 4) / 6).exp2()


def _bits(planes: Tensor, steps: Tensor) -> Tensor:
    """Estimate the bits of planes (P, H, W) with common quantization steps."""
    height, width = planes.shape[1:]
    padded = F.pad(planes[None], (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")[0]
    rows, columns = padded.shape[1] // BLOCK, padded.shape[2] // BLOCK
    blocks = padded.reshape(len(planes), rows, BLOCK, columns, BLOCK).transpose(2, 3)
    transform = _dct_matrix().to(planes)
    coefficients = transform @ blocks @ transform.T
    weights = torch.ones(BLOCK, BLOCK, device=planes.device)
    weights[0, 0] = _DC_WEIGHT
    levels = coefficients / steps[..., None, None]
    return (weights * 0.5 * torch.log2(1 + levels.square())).sum()


@cache
def _dct_matrix() -> Tensor:
    """Return the orthonormal DCT-II of 8 samples, (8, 8)."""
    frequency = torch.arange(BLOCK, dtype=torch.float64)[:, None]
    place = torch.arange(BLOCK, dtype=torch.float64)[None] + 0.5
    matrix = torch.cos(math.pi * frequency * place / BLOCK) * math.sqrt(2 / BLOCK)
    matrix[0] /= math.sqrt(2)
    return matrix.float()
