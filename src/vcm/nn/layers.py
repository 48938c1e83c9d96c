"""Layers shared by networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GDN_START = 0.001
"""γ of a new normalization: next to none, so that encoder and decoder start as each other's inverse."""


def downsampling(in_channels: int, out_channels: int) -> nn.Conv2d:
    """Build a 5×5 convolution of stride 2."""
    return nn.Conv2d(in_channels, out_channels, 5, stride=2, padding=2)


def upsampling(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """Build a transposed 5×5 convolution of stride 2."""
    return nn.ConvTranspose2d(in_channels, out_channels, 5, stride=2, padding=2, output_padding=1)


def in_float32(model: nn.Module, *inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Call an entropy model in float32, because half precision does not resolve probabilities."""
    with torch.autocast(inputs[0].device.type, enabled=False):
        values, likelihoods = model(*(tensor.float() for tensor in inputs))
    return values, likelihoods


class ResidualBlocks(nn.Sequential):
    """Residual blocks on a latent, which start as the identity.

    ```
    y ─┬─► conv 3×3 ─► LeakyReLU ─► conv 3×3 ─► + ─► …
       └────────────────────────────────────────┘
    ```

    Shapes stay (N, channels, h, w).

    Args:
        channels: Channels of the latent.
        count: Number of blocks.
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__(*(_ResidualBlock(channels) for _ in range(count)))


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.outer.weight)
        assert self.outer.bias is not None
        nn.init.zeros_(self.outer.bias)

    def forward(self, y: Tensor) -> Tensor:
        """Add the branch to (N, C, h, w)."""
        branch: Tensor = self.outer(nn.functional.leaky_relu(self.inner(y)))
        return y + branch


def pad_to_multiple(x: Tensor, stride: int) -> Tensor:
    """Pad (N, C, H, W) at the right and bottom, by replication, to multiples of `stride`."""
    bottom, right = -x.shape[-2] % stride, -x.shape[-1] % stride
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
