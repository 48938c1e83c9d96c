"""Pad images to a multiple of a stride."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, stride: int) -> Tensor:
    """Repeat the right and bottom edge of (N, C, H, W) until both sides are multiples of `stride`."""
    bottom, right = -x.shape[-2] % stride, -x.shape[-1] % stride
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x
