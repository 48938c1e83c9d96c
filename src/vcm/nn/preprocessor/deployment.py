"""Preprocessor for deployment: normalization and gains folded."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vcm.deprecation import former_arguments
from vcm.errors import ArgumentError
from vcm.nn.preprocessor.network import LMBDA_UNIT, NPP, QuantizationAdaptiveNPP


@torch.no_grad()
@former_arguments(rate="lmbda")
def deployed(network: NPP, lmbda: float | None = None) -> NPP:
    """Return an equal preprocessor with batch normalization folded into the convolutions.

    If λ is given, the gains of a quantization-adaptive network are folded in too, and the result takes images
    only. Otherwise λ stays the second input, a tensor (N,). Both can be exported by torch.export and to ONNX,
    for fixed sizes, or for heights and widths that are multiples of 16. The result is for inference, not for
    training or saving.

    Args:
        network: Trained preprocessor; it is not changed.
        lmbda: λ to fold into the weights; None keeps it as the second input.

    Raises:
        ArgumentError: If λ is outside the trained range, or the network is for one rate only.
    """
    if lmbda is not None:
        _check_lmbda(network, lmbda)
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    gains = {}
    if isinstance(folded, QuantizationAdaptiveNPP) and lmbda is not None:
        condition = folded.first.weight.new_full((1, 1), lmbda / LMBDA_UNIT)
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


def _check_lmbda(network: NPP, lmbda: float) -> None:
    if isinstance(network, QuantizationAdaptiveNPP):
        network.check_lmbda(lmbda)
        return
    raise ArgumentError(
        "lmbda",
        expected="None: this preprocessor was trained for one λ",
        got=lmbda,
        remedy="A QuantizationAdaptiveNPP takes a λ.",
    )


def _before_gains(network: NPP) -> dict[str, nn.Conv2d | nn.ConvTranspose2d]:
    """Return the convolution before each gain; only a ReLU lies between them."""
    pairs: Any = network.pairs
    ups: Any = network.ups
    convs = {"first": network.first, "second": network.second}
    convs |= {f"down{number}": pair[-1][0] for number, pair in enumerate(pairs)}
    return convs | {f"up{number}": up[0] for number, up in enumerate(ups)}


def _multiply(conv: nn.Conv2d | nn.ConvTranspose2d, gains: Tensor) -> None:
    """Multiply a convolution's output channels; gains are not negative, so they commute with the ReLU."""
    assert conv.bias is not None
    shape = (1, -1, 1, 1) if isinstance(conv, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    conv.weight.mul_(gains.view(shape))
    conv.bias.mul_(gains)
