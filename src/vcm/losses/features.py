"""Relative error of feature maps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_SMALLEST_POWER = 1e-6


def relative_errors(found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> Tensor:
    """mean((f̂ − f)²) / mean(f²) of each image, averaged over its feature maps; with a gradient.

    So maps of any scale count alike, and so do images.

    Args:
        found: f̂ by name, (N, C, h, w) each.
        true: f, of the same names and shapes.

    Returns:
        (N,), 0 where they are equal, 1 for features of zeros.
    """
    errors = []
    for name, f in true.items():
        error = (found[name] - f).pow(2).flatten(1).mean(dim=1)
        errors.append(error / f.pow(2).flatten(1).mean(dim=1).clamp(min=_SMALLEST_POWER))
    return torch.stack(errors).mean(dim=0)
