"""Haar-wavelet initialization of autoencoders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_BASIS = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]).view(4, 2, 2) / 2
"""The orthonormal Haar transform of 2×2 places: mean, vertical, horizontal, diagonal."""
_COLOURS = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]])
"""Rows: brightness and two differences of colour; orthogonal, not yet of length 1."""
_COLOUR_ENERGY = 0.06
_GREY = 0.45
"""Mean of natural images, about."""
_KEPT_BY_MEAN, _LEFT_TO_DETAIL = 3.8, 0.07
"""Energy of a mean and of each detail, of the 4 in 2×2 places, in images whose spectrum falls as 1/f²."""


@dataclass(frozen=True)
class _Band:
    """A channel of the pyramid: energy, whether it is a low-pass band, parent channel and pattern."""

    energy: float
    smooth: bool
    source: int = 0
    pattern: int = 0


@torch.no_grad()
def start_as_haar(
    convs: Sequence[nn.Module],
    decoders: Iterable[Sequence[nn.Module]] = (),
    *,
    gain: float = 0.5,
    noise: float = 0.1,
) -> None:
    """Initialize an encoder and its decoders as a Haar pyramid and its inverse, plus noise.

    ```
    x ─► (brightness, colours) ─► 2×2 Haar, ·gain ─► 2×2 Haar, ·gain ─► … ─► y ─► … inverse … ─► x̂
    ```

    Each stage keeps as many bands as it has channels, in order of their energy in natural images. The narrow
    widths of a slimmable encoder are then such codecs themselves, and training starts at an image instead of
    its mean colour. The last convolutions need a bias.

    Args:
        convs: Stride-2 convolutions of the encoder, first to last, with an odd kernel; the first takes 3
            channels. `weight` is (out, in, k, k).
        decoders: Transposed convolutions of each decoder, first to last, with kernels of the same size: as
            many as `convs` for a decoder to an image, fewer for one that stops at a coarser stage. `weight`
            is (in, out, k, k).
        gain: Gain of each encoder stage; decoders have the inverse.
        noise: Share of the previous weights that is kept as noise.
    """
    bands = [_Band(1.0, True), _Band(_COLOUR_ENERGY, True), _Band(_COLOUR_ENERGY, True)]
    mixing = _COLOURS / _COLOURS.norm(dim=1, keepdim=True)
    decoders = list(decoders)
    for stage, conv in enumerate(convs):
        down = _emptied(conv, noise)
        undone = len(convs) - 1 - stage  # how many stages a decoder has undone when it comes to this one
        ups = [_emptied(deconvs[undone], noise) for deconvs in decoders if undone < len(deconvs)]
        bands = _children(bands)[: down.shape[0]]
        middle = down.shape[-1] // 2
        place = slice(middle, middle + 2)
        for number, band in enumerate(bands):
            mix = mixing[band.source][:, None, None].to(down)
            pattern = mix * _BASIS[band.pattern].to(down)
            sources = pattern.shape[0]
            down[number, :sources, place, place] += gain * pattern
            for up in ups:
                if number < up.shape[0]:
                    up[number, :sources, place, place] += pattern[: up.shape[1]] / gain
        mixing = torch.eye(len(bands))
    # Symbols of a grey image are 0: its mean goes from the encoder's end to the decoder's.
    level = _GREY * float(_COLOURS[0].norm()) * (2 * gain) ** len(convs)
    _bias(convs[-1])[:1] = -level
    for deconvs in decoders:
        if len(deconvs) == len(convs):
            _bias(deconvs[-1]).fill_(_GREY)


def _children(bands: Sequence[_Band]) -> list[_Band]:
    """Split each band into four; return them in descending order of energy."""
    children = []
    for source, band in enumerate(bands):
        for pattern in range(len(_BASIS)):
            share = (_LEFT_TO_DETAIL if pattern else _KEPT_BY_MEAN) if band.smooth else 1.0
            children.append(_Band(share * band.energy, band.smooth and pattern == 0, source, pattern))
    return sorted(children, key=lambda band: -band.energy)


def _emptied(layer: nn.Module, noise: float) -> Tensor:
    """Scale down the layer's weight, zero its bias, and return the weight."""
    weight, bias = layer.weight, getattr(layer, "bias", None)
    assert isinstance(weight, Tensor)
    if isinstance(bias, Tensor):
        bias.zero_()
    return weight.mul_(noise)


def _bias(layer: nn.Module) -> Tensor:
    assert isinstance(layer.bias, Tensor)
    return layer.bias
