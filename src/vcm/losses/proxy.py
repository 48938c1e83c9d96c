"""Losses with proxies: imitation of a codec, and the straight-through estimator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vcm.errors import ArgumentError

_SMALLEST_MSE = 1e-5
"""Lower bound of a codec's error, about 50 dB."""


@dataclass(frozen=True, eq=False)
class Imitation:
    """Imitation loss and its terms; scalars.

    Attributes:
        loss: image + rate_weight · rate.
        image: Mean over images of MSE(p, x̂) / MSE(x̂, x): 0 for a perfect imitation, 1 if the error of the
            proxy is as large as that of the codec.
        rate: Mean over images of (ln r_p − ln r)².
    """

    loss: Tensor
    image: Tensor
    rate: Tensor


def imitation(
    decoded: Tensor, bpp: Tensor, codec_decoded: Tensor, codec_bpp: Tensor, *, x: Tensor, rate_weight: float
) -> Imitation:
    """Compute L = MSE(p, x̂) / MSE(x̂, x) + w·(ln r_p − ln r)², in which all qualities have the same weight.

    Args:
        decoded: Images p of the proxy, (N, 3, H, W).
        bpp: Rates r_p of the proxy, (N,).
        codec_decoded: Images x̂ of the codec, (N, 3, H, W) in [0, 1].
        codec_bpp: Rates r of the codec, (N,), above 0.
        x: Original images, (N, 3, H, W) in [0, 1].
        rate_weight: w, 0 or more.
    """
    apart = (decoded.float() - codec_decoded).pow(2).mean(dim=(1, 2, 3))
    lost = (codec_decoded - x).pow(2).mean(dim=(1, 2, 3)).clamp(min=_SMALLEST_MSE)
    image = (apart / lost).mean()
    rate = (torch.log(bpp.float()) - torch.log(codec_bpp)).pow(2).mean()
    return Imitation(image + rate_weight * rate, image, rate)


def straight_through(value: Tensor, proxy: Tensor) -> Tensor:
    """Return `value`, exactly, with the gradient of `proxy`.

    p + stopgrad(c − p) (Lu et al., IEEE TCSVT 2024), computed as stopgrad(c) + (p − stopgrad(p)): the bracket
    is exactly 0, so nothing is rounded.

    Args:
        value: Output c of the real codec, of any shape.
        proxy: Output p of the proxy, of the same shape.

    Raises:
        ArgumentError: If the shapes differ.
    """
    if value.shape != proxy.shape:
        raise ArgumentError(
            "value",
            expected=f"of shape {tuple(proxy.shape)}, like the proxy's output",
            got=tuple(value.shape),
        )
    return value.detach() + (proxy - proxy.detach())
