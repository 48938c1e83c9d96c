"""Latent refinement by annealed soft rounding."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

VERSION = 2
"""Raised when a search finds other symbols; records of searches hold it."""
_EDGE = 1e-4
"""Distance from a whole number below which a value stays what it is: its logit would have no bound."""
_HOTTEST, _COLDEST = 0.3, 0.05
_LEARNING_RATE, _LAST_RATE = 0.15, 0.1
_BETAS = (0.8, 0.99)
_JUDGED = (0.5, 0.75)
"""Shares of the steps after which the latent is a candidate, rounded; the last one always is."""


def annealed_round(v: Tensor, temperature: float) -> Tensor:
    """Round softly between ⌊v⌋ and ⌈v⌉; differentiable, and closer to rounding at lower temperatures.

    The two candidates have the logits −atanh(v − ⌊v⌋)/τ and −atanh(⌈v⌉ − v)/τ of Yang, Bamler and Mandt,
    Improving Inference for Neural Image Compression, NeurIPS 2020. Their mean is used instead of a
    sample, because it converges in fewer steps.

    Args:
        v: Values of any shape.
        temperature: τ, above 0.

    Returns:
        Values of the same shape; integers are unchanged, with a gradient of 1.
    """
    below = v.detach().floor()
    share = v - below
    inside = share.clamp(_EDGE, 1 - _EDGE)
    soft = torch.sigmoid((torch.atanh(inside) - torch.atanh(1 - inside)) / temperature)
    return torch.where(share == inside, below + soft, v)


def refine(
    start: Tensor,
    objective: Callable[[Tensor], Tensor],
    steps: int,
    *,
    half: bool = False,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Search integer symbols near `start` with a lower objective than `start` rounded.

    Adam moves the latent under annealed rounding; the learning rate falls along a cosine. The latent at half
    and three quarters of the steps and at the end is rounded and compared with rounding alone, in float32, so
    that the result is never worse. A step that is not finite ends the search. Nothing is random.

    Args:
        start: Latent that effort 0 rounds, any shape, float32.
        objective: Differentiable function from symbols of that shape, soft or integer, to a scalar.
        steps: Number of gradient steps, at least 0.
        half: Whether to run the steps under bfloat16 autocast.
        on_step: Progress callback; receives the steps done and the total.

    Returns:
        Integers as float32, with the shape of `start`.
    """
    if steps == 0:
        return start.detach().round()
    with torch.inference_mode(False), torch.enable_grad():
        v = start.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([v], lr=_LEARNING_RATE, betas=_BETAS)
        candidates = [start.detach()]
        judged = {math.ceil(share * steps) for share in _JUDGED}
        last = candidates[0]
        for step in range(steps):
            progress = step / max(1, steps - 1)
            temperature = _HOTTEST * (_COLDEST / _HOTTEST) ** progress
            cosine = (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.param_groups[0]["lr"] = _LEARNING_RATE * (_LAST_RATE + (1 - _LAST_RATE) * cosine)
            optimizer.zero_grad()
            with torch.autocast(v.device.type, dtype=torch.bfloat16, enabled=half):
                loss = objective(annealed_round(v, temperature))
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            if v.grad is None or not (loss.isfinite() and v.grad.isfinite().all()):
                break
            optimizer.step()
            last = v.detach().clone()
            if step + 1 in judged and step + 1 < steps:
                candidates.append(last)
            if on_step is not None:
                on_step(step + 1, steps)
    best, lowest = candidates[0].round(), math.inf
    with torch.no_grad():
        for candidate in (*candidates, last):
            found = candidate.round()
            value = float(objective(found))
            if value < lowest:
                best, lowest = found, value
    return best
