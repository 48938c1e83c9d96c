"""Channel gains conditioned on a number: one network for a range of rates."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.types import QUALITY_STEPS
from vcm.validation import is_number

_WIDE = 64
_START_RATIO = 2**0.5
"""Initial ratio of the gains of neighbouring qualities; optimal at high rates if λ doubles."""


class ChannelGains(nn.Module):
    """Channel gains m = MLP(c) of a feature map, for one number c per image.

    ```
    c ─► linear 1 → hidden ─► ReLU ─► linear hidden → channels ─► ReLU ─► m
    ```

    All gains start at 1. As in the quantization-adaptive preprocessor of Lu et al., IEEE TCSVT 2024.

    Args:
        channels: Channels of the feature map.
        hidden: Units of the hidden layer; None for 32 with up to 64 channels, and 64 with more.
    """

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = (_WIDE // 2 if channels <= _WIDE else _WIDE) if hidden is None else hidden
        first, last = nn.Linear(1, hidden), nn.Linear(hidden, channels)
        nn.init.zeros_(last.weight)
        nn.init.ones_(last.bias)
        self.mlp = nn.Sequential(first, nn.ReLU(), last, nn.ReLU())

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Multiply (N, channels, H, W) by the gains for (N,) or (1,) numbers of about 0 to 2."""
        gains: Tensor = self.mlp(condition[:, None])
        return x * gains[:, :, None, None]


def as_batch(value: float | Tensor, like: Tensor) -> Tensor:
    """Convert a number, or a tensor of one number per image, to (1,) or (N,) on the device of `like`."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1)


class LatentGains(nn.Module):
    """Gains of a latent for several rates, before quantization and inverted after it.

    ```
    y ─► · m_q ─► Q ─► · m'_q ─► ŷ
    ```

    Every quality q has learned vectors m_q and m'_q with one number per channel; between two qualities they
    are interpolated geometrically (Cui et al., Asymmetric Gained Deep Image Compression With Continuous Rate
    Adaptation, CVPR 2021). All channels start with the same gain, which doubles every two qualities and is 1
    in the middle.

    Args:
        channels: Channels of the latent.
        qualities: Number of qualities, at least 1; quality 1 is the coarsest.
    """

    def __init__(self, channels: int, qualities: int) -> None:
        super().__init__()
        steps = torch.arange(qualities, dtype=torch.float32) - (qualities - 1) / 2
        start = (math.log(_START_RATIO) * steps)[:, None].repeat(1, channels)
        self.logarithms = nn.Parameter(start)
        self.inverse_logarithms = nn.Parameter(-start)

    def gains(self, quality: float, *, inverse: bool = False) -> Tensor:
        """Return the gains of a quality, (channels, 1, 1), above 0.

        Args:
            quality: Quality in [1, qualities].
            inverse: Whether to return the gains after quantization, m'.
        """
        logarithms = self.inverse_logarithms if inverse else self.logarithms
        below = min(int(quality), len(logarithms) - 1) - 1 if len(logarithms) > 1 else 0
        share = quality - 1 - below
        found = logarithms[below]
        if share > 0:
            found = (1 - share) * found + share * logarithms[below + 1]
        return found.exp()[:, None, None]


def check_quality(quality: float | None, qualities: int) -> float:
    """Round a quality to a multiple of 1/16; None gives the middle one.

    Args:
        quality: Quality in [1, qualities].
        qualities: Number of qualities.

    Raises:
        ArgumentError: If it is out of range.
    """
    if quality is None:
        quality = (1 + qualities) / 2
    if not is_number(quality) or not 1 <= quality <= qualities:
        expected = "1, the only one that this network has" if qualities == 1 else f"from 1 to {qualities}"
        raise ArgumentError("quality", expected=expected, got=quality)
    return round(quality * QUALITY_STEPS) / QUALITY_STEPS
