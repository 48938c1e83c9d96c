"""Preprocessor for deployment: normalization and gains folded."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vcm.errors import ArgumentError
from vcm.nn.preprocessor.network import NPP, RATE_UNIT, QuantizationAdaptiveNPP


@torch.no_grad()
def deployed(network: NPP, rate: float | None = None) -> NPP:
    """The same filter as fewer operations: batch normalization is folded into the convolutions.

    With λ, the gains of a quantization-adaptive network are folded in too, which leaves a plain one; without,
    λ stays the second input, a tensor of one an image. torch.export and ONNX take either, at heights and
    widths that are multiples of 16, or at fixed ones. It is made to be run: not to be trained or saved.

    Args:
        network: A trained preprocessor; it stays as it is.
        rate: λ to be fixed; None leaves it open.

    Raises:
        ArgumentError: If λ is outside the trained range, or the network is for one rate only.
    """
    if rate is not None:
        _check_rate(network, rate)
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    gains = {}
    if isinstance(folded, QuantizationAdaptiveNPP) and rate is not None:
        condition = folded.first.weight.new_full((1, 1), rate / RATE_UNIT)
        modules: Any = folded.gains.items()
        gains = {place: module.mlp(condition)[0] for place, module in modules}
        plain = NPP(folded.channels).eval().requires_grad_(False)
        for name in ("first", "second", "pairs", "downs", "ups", "head"):
            setattr(plain, name, getattr(folded, name))
        folded = plain
    for blocks in (*folded.pairs, folded.downs, folded.ups):
        for block in blocks:
            is_up = isinstance(block[0], nn.ConvTranspose2d)
            block[0] = fuse_conv_bn_eval(block[0], block[1], transpose=is_up)
            del block[1]
    for place, gain in gains.items():
        _multiply(_before_gains(folded)[place], gain)
    return folded


def _check_rate(network: NPP, rate: float) -> None:
    if isinstance(network, QuantizationAdaptiveNPP):
        network.check_rate(rate)
        return
    raise ArgumentError(
        "rate",
        expected="left out (None): this preprocessor is for the one rate that it was trained for",
        got=rate,
        remedy="A QuantizationAdaptiveNPP takes a λ.",
    )


def _before_gains(network: NPP) -> dict[str, nn.Conv2d | nn.ConvTranspose2d]:
    """The convolution before each place of gains; only a ReLU lies between."""
    pairs: Any = network.pairs
    ups: Any = network.ups
    convs = {"first": network.first, "second": network.second}
    convs |= {f"down{number}": pair[-1][0] for number, pair in enumerate(pairs)}
    return convs | {f"up{number}": up[0] for number, up in enumerate(ups)}


def _multiply(conv: nn.Conv2d | nn.ConvTranspose2d, gains: Tensor) -> None:
    """Multiply a convolution's output channels; with gains from 0, as well as after the ReLU that follows."""
    assert conv.bias is not None
    shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    conv.weight.mul_(gains.view(shape))
    conv.bias.mul_(gains)
