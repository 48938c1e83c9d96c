"""Straight-through estimator (Bengio et al., arXiv 1308.3432)."""

from __future__ import annotations

from torch import Tensor

from vcm.errors import ArgumentError


def straight_through(value: Tensor, proxy: Tensor) -> Tensor:
    """The very values of `value`, and the gradient of `proxy`.

    p + stopgrad(c − p) (Lu et al., IEEE TCSVT 2024), written as stopgrad(c) + (p − stopgrad(p)), which rounds
    nothing: the bracket is exactly 0.

    Args:
        value: What the real codec made, of any shape.
        proxy: What the proxy made, of the same shape.

    Raises:
        ArgumentError: If the shapes differ.
    """
    if value.shape != proxy.shape:
        raise ArgumentError(
            "value", expected=f"of the proxy's shape {tuple(proxy.shape)}", got=tuple(value.shape)
        )
    return value.detach() + (proxy - proxy.detach())
