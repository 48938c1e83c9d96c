"""Rate–distortion loss of images and features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vcm.deprecation import former_arguments
from vcm.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class RateDistortion:
    """Rate–distortion loss and its terms; scalars.

    Attributes:
        loss: bpp + λ·255²·distortion.
        bpp: Estimated bits per pixel.
        distortion: Mean squared error of an image in [0, 1] or of a feature map, or another distortion.
    """

    loss: Tensor
    bpp: Tensor
    distortion: Tensor


def squared_error(decoded: Tensor, target: Tensor) -> Tensor:
    """Compute the mean squared error in float32; scalar."""
    return torch.nn.functional.mse_loss(decoded.float(), target.float())


@former_arguments(weight="lmbda")
def rate_distortion(
    decoded: Tensor,
    target: Tensor,
    likelihoods: Iterable[Tensor],
    num_pixels: int,
    lmbda: float,
    *,
    distortion: Callable[[Tensor, Tensor], Tensor] = squared_error,
) -> RateDistortion:
    """Compute L = R + λ·255²·D(decoded, target) of images or feature maps (Cao et al., IEEE Access 2023).

    Args:
        decoded: x̂, (N, 3, H, W) in [0, 1], or f̂, (N, C, h, w).
        target: x or f, of the same shape.
        likelihoods: Likelihoods of all symbols, in (0, 1].
        num_pixels: Number of pixels that the rate is divided by, N·H·W.
        lmbda: λ, above 0.
        distortion: D; the mean squared error in the paper.

    Raises:
        ArgumentError: If the shapes differ.
    """
    if decoded.shape != target.shape:
        raise ArgumentError(
            "decoded", expected=f"of shape {tuple(target.shape)}, like the target", got=tuple(decoded.shape)
        )
    bpp = -torch.stack([values.log2().sum() for values in likelihoods]).sum() / num_pixels
    error = distortion(decoded, target)
    return RateDistortion(bpp + lmbda * 255**2 * error, bpp, error)
