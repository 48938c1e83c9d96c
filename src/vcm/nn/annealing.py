"""Encoder-side search: integer symbols near a latent that lower an objective, with an unchanged decoder."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_EDGE = 1e-4
"""Distance from a whole number below which a value stays what it is: its logit would have no bound."""
_HOTTEST, _COLDEST = 0.3, 0.05
_LEARNING_RATE, _LAST_RATE = 0.15, 0.1
_BETAS = (0.8, 0.99)


def annealed_round(v: Tensor, temperature: float) -> Tensor:
    """Round softly between ⌊v⌋ and ⌈v⌉, differentiably; the colder, the closer to rounding.

    The two candidates have the logits −atanh(v − ⌊v⌋)/τ and −atanh(⌈v⌉ − v)/τ of Yang, Bamler and Mandt,
    Improving Inference for Neural Image Compression, NeurIPS 2020; their mean is taken instead of a sample,
    which in few steps goes further.

    Args:
        v: Any shape.
        temperature: τ, above 0.

    Returns:
        The shape of `v`; whole numbers stay what they are, with a gradient of 1.
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
    """Search whole symbols near `start` whose objective is lower than that of `start` rounded.

    Adam moves the latent under annealed rounding; the learning rate falls along a cosine. What the search
    ends with is compared with rounding alone, in float32, so that the result is never worse. A step that is
    not finite ends the search. Nothing is random.

    Args:
        start: The latent that effort 0 rounds, any shape, float32.
        objective: Takes symbols of that shape, soft or whole, and gives a scalar; differentiable.
        steps: Number of gradient steps, 0 or more.
        half: Whether steps run in bfloat16 where autocast allows it.
        on_step: Called with the steps done and `steps` after each.

    Returns:
        Whole numbers as float32, in the shape of `start`.
    """
    best = start.detach().round()
    if steps == 0:
        return best
    with torch.inference_mode(False), torch.enable_grad():
        v = start.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([v], lr=_LEARNING_RATE, betas=_BETAS)
        last = v.detach().clone()
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
            if on_step is not None:
                on_step(step + 1, steps)
    with torch.no_grad():
        found = last.round()
        return found if bool(objective(found) < objective(best)) else best
