"""Differentiable rate estimate of intra-coded images."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from vcm.errors import ArgumentError

BLOCK = 8
_DC_WEIGHT = 0.3
"""Weight of the DC coefficient, most of which intra prediction removes."""


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
