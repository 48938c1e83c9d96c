"""Imitation loss of a proxy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vcm.errors import ArgumentError

_SMALLEST_MSE = 1e-5
"""Of a codec's image, about 50 dB: smaller differences are ignored."""


@dataclass(frozen=True, eq=False)
class Imitation:
    """A proxy's fidelity on a batch; scalars.

    Attributes:
        loss: image + weight · rate.
        image: Mean over images of MSE(p, x̂) / MSE(x̂, x): 0 if the proxy is the codec, 1 if it is as far
            from the codec's image as the original is.
        rate: Mean over images of (ln r_p − ln r)².
    """

    loss: Tensor
    image: Tensor
    rate: Tensor


def imitation(
    decoded: Tensor, bpp: Tensor, codec_decoded: Tensor, codec_bpp: Tensor, *, x: Tensor, rate_weight: float
) -> Imitation:
    """L = MSE(p, x̂) / MSE(x̂, x) + w·(ln r_p − ln r)², so that every quality counts alike.

    Args:
        decoded: The proxy's images p, (N, 3, H, W).
        bpp: The proxy's rates r_p, (N,).
        codec_decoded: The codec's images x̂, (N, 3, H, W) in [0, 1].
        codec_bpp: The codec's rates r, (N,), above 0.
        x: The originals, (N, 3, H, W) in [0, 1].
        rate_weight: w, 0 or more.
    """
    apart = (decoded.float() - codec_decoded).pow(2).mean(dim=(1, 2, 3))
    lost = (codec_decoded - x).pow(2).mean(dim=(1, 2, 3)).clamp(min=_SMALLEST_MSE)
    image = (apart / lost).mean()
    rate = (torch.log(bpp.float()) - torch.log(codec_bpp)).pow(2).mean()
    return Imitation(image + rate_weight * rate, image, rate)


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
