"""Channel gains that a number decides: one network for a whole range of rates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_WIDE = 64


class ChannelGains(nn.Module):
    """m = MLP(c): what the channels of a feature map are multiplied with, given a number c a picture.

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
        """(N, channels, H, W), and (N,) or (1,) numbers of about 0 to 2 → (N, channels, H, W)."""
        gains: Tensor = self.mlp(condition[:, None])
        return x * gains[:, :, None, None]


def as_batch(value: float | Tensor, like: Tensor) -> Tensor:
    """One number for all pictures, or a tensor of one each, as a (1,) or (N,) tensor on `like`'s device."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1)
