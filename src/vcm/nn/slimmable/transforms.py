"""Transforms of the autoencoder, and decoders from a latent to a feature map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from compressai.layers import GDN
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.nn.integer import split_parameters
from vcm.nn.layers import GDN_START, upsampling
from vcm.nn.slimmable.layers import (
    DenseGDN,
    SlimmableConv2d,
    SlimmableConvTranspose2d,
    SwitchableGDN,
)
from vcm.nn.slimmable.types import FeatureMap
from vcm.validation import is_whole

LATENT_STRIDE = 16
"""Pixels of the image, a side, for each place of the latent y."""


class Analysis(nn.Module):
    """Analysis transform g_a, image to latent, at several widths (Cao et al., IEEE Access 2023).

    ```
    x ─► conv 5×5/2 ─► GDN ─► conv 5×5/2 ─► GDN ─► conv 5×5/2 ─► GDN ─► conv 5×5/2 ─► y
         3 → w, no bias                                                                      w → l
    ```

    Args:
        widths: Channels between the layers, for each width.
        latents: Channels of the latent, for each width.
    """

    def __init__(self, widths: Sequence[int], latents: Sequence[int]) -> None:
        super().__init__()
        channels = [[3] * len(widths), *[widths] * 3, latents]
        self.convs = nn.ModuleList(
            SlimmableConv2d(before, after, 5, stride=2, bias=number > 0)
            for number, (before, after) in enumerate(pairwise(channels))
        )
        self.gdns = nn.ModuleList(SwitchableGDN(widths) for _ in range(3))

    def forward(self, x: Tensor, index: int) -> Tensor:
        """(N, 3, H, W) in [0, 1] → y, (N, latents[index], H/16, W/16)."""
        for conv, gdn in zip(self.convs, self.gdns, strict=False):
            x = gdn(conv(x, index), index)
        y: Tensor = self.convs[-1](x, index)
        return y

    def dense(self, index: int) -> nn.Sequential:
        """Build plain layers with the weights of width `index`."""
        layers: list[nn.Module] = []
        for conv, gdn in zip(self.convs, self.gdns, strict=False):
            assert isinstance(conv, SlimmableConv2d)
            assert isinstance(gdn, SwitchableGDN)
            layers += [conv.dense(index), DenseGDN(gdn.at[index])]
        last = self.convs[-1]
        assert isinstance(last, SlimmableConv2d)
        return nn.Sequential(*layers, last.dense(index))


class _Pyramid(nn.Sequential):
    """Decoder that can be initialized as an inverse Haar pyramid; see `vcm.nn.haar`."""

    def deconvs(self) -> list[nn.Module]:
        """Return the transposed convolutions in order."""
        return [layer for layer in self if isinstance(layer, nn.ConvTranspose2d)]


class Synthesis(_Pyramid):
    """Synthesis transform g_s, latent to image.

    ```
    ŷ ─► deconv 5×5/2 ─► IGDN ─► deconv 5×5/2 ─► IGDN ─► deconv 5×5/2 ─► IGDN ─► deconv 5×5/2 ─► x̂
    ```

    (N, in_channels, h, w) → (N, 3, 16·h, 16·w), about [0, 1], not clipped.

    Args:
        in_channels: Channels of the latent.
        channels: Channels between the layers.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(*_synthesis_stages(in_channels, channels, 3), upsampling(channels, 3))


def _synthesis_stages(in_channels: int, channels: int, count: int) -> list[nn.Module]:
    """Build the first stages of g_s: deconvolution and inverse GDN each."""
    layers: list[nn.Module] = []
    for number in range(count):
        before = channels if number else in_channels
        layers += [upsampling(before, channels), GDN(channels, inverse=True, gamma_init=GDN_START)]
    return layers


class HyperAnalysis(nn.Module):
    """Hyper-analysis transform h_a, latent to side information, at several widths.

    ```
    |y| ─► conv 3×3/1 ─► LeakyReLU ─► conv 5×5/2 ─► LeakyReLU ─► conv 5×5/2 ─► z
           l → w
    ```

    Args:
        latents: Channels of the latent, for each width.
        widths: Channels of all layers, for each width.
    """

    def __init__(self, latents: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            SlimmableConv2d(before, widths, kernel, stride=stride)
            for before, kernel, stride in ((latents, 3, 1), (widths, 5, 2), (widths, 5, 2))
        )

    def forward(self, y: Tensor, index: int) -> Tensor:
        """Y, (N, latents[index], h, w) → z, (N, widths[index], h/4, w/4)."""
        x = y.abs()
        for number, conv in enumerate(self.convs):
            x = conv(x if number == 0 else nn.functional.leaky_relu(x), index)
        return x

    def dense(self, index: int) -> nn.Sequential:
        """Build plain layers with the weights of width `index`; they take |y|."""
        layers: list[nn.Module] = []
        for conv in self.convs:
            assert isinstance(conv, SlimmableConv2d)
            layers += [conv.dense(index), nn.LeakyReLU()]
        return nn.Sequential(*layers[:-1])


class HyperSynthesis(nn.Module):
    """Hyper-synthesis transform h_s, side information to scales (and means) of the latent, at several widths.

    ```
    ẑ ─► deconv 5×5/2 ─► LeakyReLU ─► deconv 5×5/2 ─► LeakyReLU ─► deconv 3×3/1 ─► σ, μ
                                                                   w → l
    ```

    For training and rate estimates; the entropy coder uses `vcm.nn.integer.IntegerHyperSynthesis`, the same
    network in exact arithmetic.

    Args:
        widths: Channels between the layers, for each width.
        latents: Channels of the latent, for each width.
        means: Whether it also predicts means; scale and mean of each channel alternate, so that widths can
            share weights.
    """

    def __init__(self, widths: Sequence[int], latents: Sequence[int], *, means: bool = False) -> None:
        super().__init__()
        self.means = means
        given = [latent * (1 + means) for latent in latents]
        self.deconvs = nn.ModuleList(
            SlimmableConvTranspose2d(widths, after, kernel, stride=stride)
            for after, kernel, stride in ((widths, 5, 2), (widths, 5, 2), (given, 3, 1))
        )

    def forward(self, z_hat: Tensor, index: int) -> tuple[Tensor, Tensor | None]:
        """ẑ, (N, widths[index], h/4, w/4) to σ, (N, latents[index], h, w), before bounds; and μ."""
        x = z_hat
        for number, deconv in enumerate(self.deconvs):
            x = deconv(x if number == 0 else nn.functional.leaky_relu(x), index)
        return split_parameters(x, self.means)


class FeatureTransform(nn.Sequential):
    """Decoder from a latent to the feature map at a task network's cut.

    ```
    ŷ ─► deconv 5×5/2 ─► LeakyReLU ─► 5×5/1 ─► LeakyReLU ─► 3×3/1 ─► LeakyReLU ─► 3×3/1 ─► f̂
    ```

    This is the decoder for stride 8, as in the paper. A finer feature map takes one more deconvolution for
    each halving of the stride, a coarser one strided 5×5 convolutions instead.

    (N, in_channels, h, w) → (N, out_channels, 16·h/stride, 16·w/stride).

    Args:
        in_channels: Channels of the latent.
        out_channels: Channels of the feature map.
        stride: Stride of the feature map in pixels: 1, 2, 4, … 64.
        channels: Channels between the layers.

    Raises:
        ArgumentError: If the stride is not supported.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, channels: int) -> None:
        if not is_whole(stride) or stride not in _STRIDES:
            raise ArgumentError(
                "stride", expected=f"one of {', '.join(map(str, _STRIDES))} (pixels)", got=stride
            )
        steps = round(math.log2(LATENT_STRIDE / stride))
        layers: list[nn.Module] = []
        before = in_channels
        for _ in range(max(abs(steps), 1)):
            if steps > 0:
                layer: nn.Module = upsampling(before, channels)
            else:
                layer = nn.Conv2d(before, channels, 5, stride=2 if steps < 0 else 1, padding=2)
            layers += [layer, nn.LeakyReLU()]
            before = channels
        layers += [nn.Conv2d(channels, channels, 5, padding=2), nn.LeakyReLU()]
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU()]
        super().__init__(*layers, nn.Conv2d(channels, out_channels, 3, padding=1))


class FeatureSynthesis(_Pyramid):
    """Decoder to an early feature map of high resolution: the first stages of g_s, then convolutions.

    ```
    ŷ ─► [deconv 5×5/2 ─► IGDN] ×n ─► 5×5/1 ─► LeakyReLU ─► 3×3/1 ─► LeakyReLU ─► 3×3/1 ─► f̂
    ```

    n = 1, 2 or 3, for a feature map at stride 8, 4 or 2. The stages start as the inverse of the encoder, so
    that the convolutions start with the bands of the image, of which early features are a local function. The
    published `FeatureTransform` starts as noise and has to learn the image first.

    (N, in_channels, h, w) → (N, out_channels, 16·h/stride, 16·w/stride).

    Args:
        in_channels: Channels of the latent.
        out_channels: Channels of the feature map.
        stride: Stride of the feature map in pixels: 2, 4 or 8.
        channels: Channels between the stages.
        hidden: Channels between the convolutions.

    Raises:
        ArgumentError: If the stride is not supported.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, channels: int, hidden: int) -> None:
        if not is_whole(stride) or stride not in _FINE_STRIDES:
            raise ArgumentError(
                "stride",
                expected=f"one of {', '.join(map(str, _FINE_STRIDES))} (pixels) with synthesis=true",
                got=stride,
            )
        super().__init__(
            *_synthesis_stages(in_channels, channels, round(math.log2(LATENT_STRIDE / stride))),
            nn.Conv2d(channels, hidden, 5, padding=2),
            nn.LeakyReLU(),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(hidden, out_channels, 3, padding=1),
        )


def feature_decoder(
    in_channels: int, target: FeatureMap, channels: int
) -> FeatureTransform | FeatureSynthesis:
    """Build the decoder from a latent of `in_channels` to a feature map.

    Args:
        in_channels: Channels of the latent.
        target: Feature map to decode to.
        channels: Channels between the layers if the feature map does not set them.

    Raises:
        ArgumentError: If no decoder supports the feature map.
    """
    hidden = channels if target.hidden is None else target.hidden
    for name, value in (("channels", target.channels), ("hidden", hidden)):
        if not is_whole(value) or value < 1:
            raise ArgumentError(name, expected="a whole number from 1", got=value)
    if target.synthesis:
        return FeatureSynthesis(in_channels, target.channels, target.stride, channels, hidden)
    return FeatureTransform(in_channels, target.channels, target.stride, hidden)


_STRIDES = tuple(1 << power for power in range(7))
_FINE_STRIDES = (2, 4, 8)
