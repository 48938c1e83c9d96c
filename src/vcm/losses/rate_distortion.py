"""Rate plus weighted distortion, of a picture or of a feature map."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vcm.errors import ArgumentError
from vcm.types import is_number


@dataclass(frozen=True, eq=False)
class RateDistortion:
    """One width's loss and what it is made of; scalars.

    Attributes:
        loss: bpp + λ·255²·mse.
        bpp: Estimated bits per pixel.
        mse: Mean squared error, of a picture in [0, 1] or of a feature map as it is.
    """

    loss: Tensor
    bpp: Tensor
    mse: Tensor


def rate_distortion(
    decoded: Tensor, target: Tensor, likelihoods: Iterable[Tensor], num_pixels: int, weight: float
) -> RateDistortion:
    """L = R + λ·255²·MSE(decoded, target), for a picture or a feature map (Cao et al., IEEE Access 2023).

    Args:
        decoded: x̂, (N, 3, H, W) in [0, 1], or f̂, (N, C, h, w).
        target: x or f, of the same shape.
        likelihoods: Of every symbol, in (0, 1].
        num_pixels: Pixels that the rate is for, N·H·W.
        weight: λ, above 0.

    Raises:
        ArgumentError: If the shapes differ.
    """
    if decoded.shape != target.shape:
        raise ArgumentError(
            "decoded", expected=f"of the target's shape {tuple(target.shape)}", got=tuple(decoded.shape)
        )
    bpp = -torch.stack([values.log2().sum() for values in likelihoods]).sum() / num_pixels
    mse = torch.nn.functional.mse_loss(decoded.float(), target.float())
    return RateDistortion(bpp + weight * 255**2 * mse, bpp, mse)


def check_weight(argument: str, value: float) -> float:
    """Return λ if it is a finite number above 0.

    Raises:
        ArgumentError: If it is not.
    """
    if not is_number(value) or not 0 < value < float("inf"):
        raise ArgumentError(argument, expected="a number above 0", got=value)
    return float(value)
