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
"""Of neighbouring qualities' gains at first: right for λ that double, by high-rate theory."""


class ChannelGains(nn.Module):
    """Channel gains m = MLP(c) of a feature map, for one number c per image.

    ```
    c ─► linear 1 → hidden ─► ReLU ─► linear hidden → channels ─► ReLU ─► m
    ```

    All gains are 1 at first (Lu et al., IEEE TCSVT 2024, of the quantization-adaptive preprocessor).

    Args:
        channels: Of the feature map.
        hidden: Of the layer between; None takes 32 for up to 64 channels, and 64 for more.
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

    Every quality q has a vector m_q and a vector m'_q, one number a channel, learned apart; between two
    qualities they are interpolated, geometrically (Cui et al., Asymmetric Gained Deep Image Compression With
    Continuous Rate Adaptation, CVPR 2021). At first all channels have the same gain, which doubles every
    other quality and is 1 in the middle.

    Args:
        channels: Of the latent.
        qualities: How many there are, from 1; they are numbered from 1, the coarsest.
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
            quality: From 1 to how many there are.
            inverse: Whether those after quantization are meant.
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
        quality: From 1 to `qualities`.
        qualities: How many there are.

    Raises:
        ArgumentError: If it is out of range.
    """
    if quality is None:
        quality = (1 + qualities) / 2
    if not is_number(quality) or not 1 <= quality <= qualities:
        expected = "1, the only one that this network has" if qualities == 1 else f"from 1 to {qualities}"
        raise ArgumentError("quality", expected=expected, got=quality)
    return round(quality * QUALITY_STEPS) / QUALITY_STEPS
