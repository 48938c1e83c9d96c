"""Differentiable JPEG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vcm.errors import ArgumentError
from vcm.nn.gains import as_batch
from vcm.nn.layers import pad_to_multiple
from vcm.nn.proxy.base import Proxy, ProxyOutput
from vcm.types import Settings

SCALE = (1, 100)
"""libjpeg's quality."""
CHROMA = ("420", "444")
_SIDE = 8

# ITU-T T.81, Annex K, tables K.1 (luma) and K.2 (chroma), row by row.
_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * _SIDE,) * 4,
)
# ITU-R BT.601, full range: Y, Cb, Cr of R, G, B.
_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)

HEADER_BITS = 8 * 625
"""Bits of a file of Pillow's that do not depend on the image."""
# Bits for each of what `counts` counts, fitted to Pillow's bytes on photographs by benchmarks/jpeg_rate.py.
_BITS = (6.77, 1.08, 1.45, 2.93, 3.89, 1.21, 3.70, 0.05)


class JPEGProxy(Proxy):
    """Differentiable JPEG (ITU-T T.81), as implemented by libjpeg.

    ```
    x ─► YCbCr ─► 4:2:0 ─► 8×8 DCT ─► /table(quality) ─► soft rounding ─┬─► ·table ─► inverse ─► decoded
                                                                       └─► linear in simple counts ─► bpp
    ```

    Soft rounding is round(c) + (c − round(c))³ (Shin and Song, 2017), in training mode. In evaluation mode
    values are rounded as the codec's, with the gradient of soft rounding. It computes in float32, under
    autocast too.

    Args:
        qualities: Smallest and largest supported quality, within libjpeg's 1 to 100.
        chroma: "420" or "444".

    Raises:
        ArgumentError: If an argument is invalid.
    """

    # Buffers, which move with the module.
    basis: Tensor
    to_ycc: Tensor
    to_rgb: Tensor
    tables: Tensor

    def __init__(self, qualities: Sequence[float] = (5, 95), chroma: str = "420") -> None:
        super().__init__("jpeg", qualities)
        if not SCALE[0] <= self.qualities[0] or not self.qualities[1] <= SCALE[1]:
            raise ArgumentError(
                "qualities", expected=f"within JPEG's scale, {SCALE[0]} to {SCALE[1]}", got=qualities
            )
        if chroma not in CHROMA:
            raise ArgumentError("chroma", expected="one of " + ", ".join(map(repr, CHROMA)), got=chroma)
        self.chroma = chroma
        self.codec_settings = {"chroma": chroma}
        constants = {
            "basis": _dct_basis(),
            "to_ycc": torch.tensor(_TO_YCC, dtype=torch.float64),
            "to_rgb": torch.tensor(_TO_YCC, dtype=torch.float64).inverse(),
            "tables": torch.tensor((_LUMA_TABLE, _CHROMA_TABLE), dtype=torch.float64).flatten(1),
        }
        for name, constant in constants.items():
            self.register_buffer(name, constant.float(), persistent=False)

    def forward(self, x: Tensor, quality: float | Tensor) -> ProxyOutput:
        """See `Proxy.forward`; `quality` need not be whole."""
        height, width = x.shape[-2:]
        with torch.autocast(x.device.type, enabled=False):
            planes = self._quantized(x.float(), quality)
            bits = HEADER_BITS + _counts(planes) @ x.new_tensor(_BITS, dtype=torch.float32)
            luma, chroma = (_from_blocks((symbols * table) @ self.basis) for symbols, table in planes)
            ycc = torch.cat((luma[..., :height, :width], self._upsampled(chroma, height, width)), dim=1)
            decoded = (_recoloured(ycc, self.to_rgb) + 128) / 255
        return ProxyOutput(decoded, bits / (height * width))

    def counts(self, x: Tensor, quality: float | Tensor) -> Tensor:
        """Return the counts in which the rate is linear, (N, 8).

        For luma, then for chroma: the number of blocks, Σ log2(1 + |q|) of DC differences and of AC symbols,
        and the number of nonzero AC symbols.
        """
        return _counts(self._quantized(x.float(), quality))

    def architecture(self) -> Settings:
        """See `Proxy.architecture`."""
        return {"network": type(self).__name__, "qualities": list(self.qualities), "chroma": self.chroma}

    def _quantized(self, x: Tensor, quality: float | Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return symbols (N, 1 or 2, h, w, 64) of luma and of chroma, and tables (1 or N, 1, 1, 1, 64)."""
        self.condition(quality, x)
        quality = as_batch(quality, x)
        # as libjpeg scales them: per cents and steps rounded down
        percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
        tables = ((self.tables * percent[:, None, None] + 50) / 100).floor().clamp(1, 255)
        ycc = _whole(_recoloured(255 * x - 128, self.to_ycc))
        luma, chroma = pad_to_multiple(ycc[:, :1], _SIDE), ycc[:, 1:]
        if self.chroma == "420":
            # as libjpeg: columns are repeated before averaging, rows after it; halves go down and up by turns
            height, width = x.shape[-2:]
            chroma = F.pad(chroma, (0, -width % (2 * _SIDE), 0, height % 2), mode="replicate")
            chroma = F.avg_pool2d(chroma, 2)
            chroma = _whole(chroma + x.new_tensor((-0.125, 0.125)).repeat(chroma.shape[3] // 2))
        chroma = pad_to_multiple(chroma, _SIDE)
        planes = []
        for plane, table in zip((luma, chroma), tables[:, :, None, None, None].unbind(1), strict=True):
            coefficients = _in_blocks(plane) @ self.basis.T / table
            planes.append((self._rounded(coefficients), table))
        return planes

    def _rounded(self, coefficients: Tensor) -> Tensor:
        exact = coefficients.detach()
        whole = exact.sign() * (exact.abs() + 0.5).floor()
        soft = whole + (coefficients - whole) ** 3
        return soft if self.training else whole + (soft - soft.detach())

    def _upsampled(self, chroma: Tensor, height: int, width: int) -> Tensor:
        if self.chroma == "444":
            return chroma[..., :height, :width]
        half_height, half_width = -(-height // 2), -(-width // 2)
        chroma = chroma[..., :half_height, :half_width]
        # libjpeg's triangle filter, which it leaves for repetition where there is hardly any chroma
        mode = "bilinear" if half_width > 2 else "nearest"
        return F.interpolate(chroma, scale_factor=2, mode=mode)[..., :height, :width]


def _counts(planes: list[tuple[Tensor, Tensor]]) -> Tensor:
    """See `JPEGProxy.counts`."""
    counts = []
    for symbols, _ in planes:
        dc, ac = symbols[..., 0].flatten(2), symbols[..., 1:].flatten(1)
        steps = dc.diff(dim=2, prepend=torch.zeros_like(dc[..., :1])).flatten(1)
        blocks = torch.full_like(steps[:, 0], steps.shape[1])
        counts += [blocks, _bit_length(steps), _bit_length(ac), ac.abs().clamp(max=1).sum(1)]
    return torch.stack(counts, dim=1)


def _bit_length(symbols: Tensor) -> Tensor:
    """Compute Σ log2(1 + |q|) per image, (N,)."""
    return torch.log2(1 + symbols.abs()).sum(1)


def _whole(x: Tensor) -> Tensor:
    """Round, with the gradient of the identity."""
    return x.detach().round() + (x - x.detach())


def _recoloured(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,njhw->nihw", matrix, x)


def _dct_basis() -> Tensor:
    """Return the DCT basis, (64, 64): row 8u + v has vertical frequency u and horizontal frequency v."""
    places = torch.arange(_SIDE, dtype=torch.float64)
    waves = torch.cos(math.pi / _SIDE * places[:, None] * (places + 0.5)) * math.sqrt(2 / _SIDE)
    waves[0] /= math.sqrt(2)
    return torch.kron(waves, waves)


def _in_blocks(planes: Tensor) -> Tensor:
    """Split (N, C, 8h, 8w) into blocks, (N, C, h, w, 64)."""
    n, c, height, width = planes.shape
    cut = planes.reshape(n, c, height // _SIDE, _SIDE, width // _SIDE, _SIDE)
    return cut.transpose(3, 4).flatten(4)


def _from_blocks(blocks: Tensor) -> Tensor:
    """Join blocks (N, C, h, w, 64) to (N, C, 8h, 8w)."""
    n, c, down, across, _ = blocks.shape
    cut = blocks.reshape(n, c, down, across, _SIDE, _SIDE).transpose(3, 4)
    return cut.reshape(n, c, down * _SIDE, across * _SIDE)
