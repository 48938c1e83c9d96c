"""Importance maps: squared random Gauss–Newton directions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vcm.errors import ArgumentError, WeightsError
from vcm.validation import check_whole, is_whole

if TYPE_CHECKING:
    from vcm.tasks.split import SplitTask

Outputs = Mapping[str, Tensor]


def pixel_importance(task: SplitTask, image: Tensor, directions: int, seed: int) -> Tensor:
    """See `SplitTask.importance`."""
    check_whole("directions", directions, 1)
    if not is_whole(seed) or not -(1 << 63) <= seed < 1 << 63:
        raise ArgumentError("seed", expected="a 64-bit whole number", got=seed)
    if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
        came = f"{tuple(image.shape)} {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        raise ArgumentError("image", expected="a float (3, H, W) RGB tensor in [0, 1]", got=came)
    device = task.device
    generator = torch.Generator().manual_seed(int(seed))
    with torch.inference_mode(False), torch.enable_grad():
        pixels = image.detach().clone().to(device).float().requires_grad_(True)
        features = task.features([pixels])
        if task.has_heads:
            outputs = task.outputs(features)
            drawn = task.output_directions(
                {name: tensor.detach() for name, tensor in outputs.items()}, directions, generator
            )
        else:
            outputs = features.tensors
            drawn = [_relative_direction(outputs, generator) for _ in range(directions)]
        total = torch.zeros(image.shape[-2:], device=device)
        for number, direction in enumerate(drawn, 1):
            (gradient,) = torch.autograd.grad(
                list(outputs.values()),
                pixels,
                [direction[name].to(tensor) for name, tensor in outputs.items()],
                retain_graph=number < len(drawn),
            )
            total += gradient.square().sum(dim=0)
    if not total.isfinite().all():
        raise WeightsError(f"{task.name} has NaN or infinite gradients: its weights are damaged.")
    return (total / len(drawn)).to(image.device)


def diagonal_directions(
    divergence: Callable[[Outputs, Outputs], Tensor], outputs: Outputs, count: int, generator: torch.Generator
) -> list[dict[str, Tensor]]:
    """Draw directions √h · n with h the Hessian's diagonal and n standard normal; see
    `SplitTask.output_directions`.

    The diagonal is estimated as v · Hv with one random v of ±1, which is exact for a diagonal Hessian (Bekas,
    Kokiopoulou, Saad, "An estimator for the diagonal of a matrix", 2007).
    """
    with torch.enable_grad():
        found = {name: tensor.detach().float().requires_grad_(True) for name, tensor in outputs.items()}
        true = {name: tensor.detach() for name, tensor in found.items()}
        slopes = torch.autograd.grad(divergence(found, true).sum(), list(found.values()), create_graph=True)
        signs = [_normal(slope, generator).sign() for slope in slopes]
        products = torch.autograd.grad(slopes, list(found.values()), signs)
    scales = [(sign * product).clamp_min(0).sqrt() for sign, product in zip(signs, products, strict=True)]
    return [
        {name: scale * _normal(scale, generator) for name, scale in zip(found, scales, strict=True)}
        for _ in range(count)
    ]


def class_directions(logits: Tensor, count: int, generator: torch.Generator) -> list[Tensor]:
    """Draw random directions with covariance diag(p) − p pᵀ, the Fisher information of softmax logits.

    Args:
        logits: Logits (N, C).
        count: Number of directions.
        generator: Random number generator.

    Returns:
        Directions (N, C): √p · n − p · ⟨√p, n⟩ with n standard normal.
    """
    p = logits.detach().float().softmax(dim=1)
    directions = []
    for _ in range(count):
        scaled = p.sqrt() * _normal(p, generator)
        directions.append(scaled - p * scaled.sum(dim=1, keepdim=True))
    return directions


def _relative_direction(features: Outputs, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a direction of Σ ‖f̂ − f‖² / ‖f‖² over tensors."""
    return {
        name: _normal(tensor, generator) / tensor.detach().float().norm().clamp_min(1e-12)
        for name, tensor in features.items()
    }


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers with a tensor's shape and device."""
    return torch.randn(like.shape, generator=generator).to(like.device)
