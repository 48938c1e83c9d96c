"""Darknet layers. `sources` lists the layers that a layer reads; -1 is the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vcm.nn.darknet.cfg import Section
from vcm.nn.darknet.head import HeadSpec

BATCH_NORM_EPS = 1e-6
"""As in Darknet's CPU code and OpenCV's reader; 1e-5, as on its GPU, moves raw outputs by up to 0.006."""
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "logistic": nn.Sigmoid,
}


class Layer(nn.Module):
    """A layer of a Darknet network.

    Attributes:
        sources: Indices of the layers that it reads; -1 is the image.
        out_channels: Channels of the output.
        stride: Stride of the output, in pixels of the network's input.
    """

    def __init__(self, sources: Sequence[int], out_channels: int, stride: float) -> None:
        super().__init__()
        self.sources = tuple(sources)
        self.out_channels = out_channels
        self.stride = stride


def _activation(section: Section, default: str) -> nn.Module:
    name = section.options.get("activation", default)
    if name not in _ACTIVATIONS:
        raise section.error("activation", f"one of {', '.join(_ACTIVATIONS)}", name)
    return _ACTIVATIONS[name]()


class Convolutional(Layer):
    """Convolution, optional batch normalization, activation."""

    def __init__(self, section: Section, index: int, previous: Previous) -> None:
        section.check_known(
            ("batch_normalize", "filters", "size", "stride", "pad", "padding", "groups", "activation")
        )
        size, stride = section.integer("size", 1, low=1), section.integer("stride", 1, low=1)
        filters, groups = section.integer("filters", 1, low=1), section.integer("groups", 1, low=1)
        channels = previous[-1].out_channels
        if channels % groups or filters % groups:
            raise section.error(
                "groups", f"a divisor of filters={filters} and of {channels} channels", groups
            )
        super().__init__([index - 1], filters, previous[-1].stride * stride)
        padding = size // 2 if section.integer("pad", 0) else section.integer("padding", 0)
        normalized = bool(section.integer("batch_normalize", 0))
        self.conv = nn.Conv2d(channels, filters, size, stride, padding, groups=groups, bias=not normalized)
        self.norm = nn.BatchNorm2d(filters, eps=BATCH_NORM_EPS) if normalized else None
        self.activation = _activation(section, "logistic")
        self.folded = False

    def fold(self) -> None:
        """Fold batch normalization into the convolution, for evaluation mode."""
        if self.norm is not None:
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = None
            self.folded = True

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, filters, H/stride, W/stride)."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return self.activation(x)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any


class MaxPool(Layer):
    """Max pooling over size × size, padded by size − 1 in total, the odd pixel at the right and bottom."""

    def __init__(self, section: Section, index: int, previous: Previous) -> None:
        section.check_known(("size", "stride", "padding"))
        stride = section.integer("stride", 1, low=1)
        super().__init__([index - 1], previous[-1].out_channels, previous[-1].stride * stride)
        self.step = stride
        self.size = section.integer("size", stride, low=1)
        self.padding = section.integer("padding", self.size - 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, ⌊(H + padding − size)/stride⌋ + 1, …)."""
        before = self.padding // 2
        after = self.padding - before
        if self.padding:
            x = F.pad(x, (before, after, before, after), value=-torch.inf)
        return F.max_pool2d(x, self.size, self.step)


class Upsample(Layer):
    """Nearest-neighbour upsampling by `stride`."""

    def __init__(self, section: Section, index: int, previous: Previous) -> None:
        section.check_known(("stride",))
        stride = section.integer("stride", 2, low=1)
        super().__init__([index - 1], previous[-1].out_channels, previous[-1].stride / stride)
        self.factor = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H·stride, W·stride)."""
        return F.interpolate(x, scale_factor=float(self.factor), mode="nearest")


class Route(Layer):
    """Concatenation of earlier outputs along channels, of each only group `group_id` of `groups`."""

    def __init__(self, section: Section, index: int, previous: Previous) -> None:
        section.check_known(("layers", "groups", "group_id"))
        sources = _earlier(section, "layers", index)
        layers = [previous[source + 1] for source in sources]
        if len({layer.stride for layer in layers}) > 1:
            raise section.error(
                "layers",
                "layers of one resolution",
                {s: x.stride for s, x in zip(sources, layers, strict=True)},
            )
        groups, group = section.integer("groups", 1, low=1), section.integer("group_id", 0)
        if any(layer.out_channels % groups for layer in layers):
            raise section.error("groups", "a divisor of the layers' channels", groups)
        if group >= groups:
            raise section.error("group_id", f"below groups={groups}", group)
        super().__init__(sources, sum(x.out_channels // groups for x in layers), layers[0].stride)
        self.groups = groups
        self.group = group

    def forward(self, *xs: Tensor) -> Tensor:
        """(N, Cᵢ, H, W) … → (N, Σ Cᵢ/groups, H, W)."""
        if self.groups > 1:
            xs = tuple(x.chunk(self.groups, dim=1)[self.group] for x in xs)
        return xs[0] if len(xs) == 1 else torch.cat(xs, dim=1)


class Shortcut(Layer):
    """Sum of the previous layer and an earlier one."""

    def __init__(self, section: Section, index: int, previous: Previous) -> None:
        section.check_known(("from", "activation"))
        sources = [index - 1, *_earlier(section, "from", index)]
        a, b = (previous[source + 1] for source in sources[:2])
        if len(sources) != 2 or (a.out_channels, a.stride) != (b.out_channels, b.stride):
            raise section.error(
                "from",
                f"one layer with {a.out_channels} channels at stride {a.stride:g}, as the layer before has",
                f"{section.options['from']}, which has {b.out_channels} at {b.stride:g}",
            )
        super().__init__(sources, a.out_channels, a.stride)
        self.activation = _activation(section, "linear")

    def forward(self, x: Tensor, earlier: Tensor) -> Tensor:
        """Add two (N, C, H, W)."""
        return self.activation(x + earlier)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any


class YOLO(Layer):
    """Detection head: passes its raw input on; `spec` describes how to decode it."""

    def __init__(self, section: Section, index: int, previous: Previous) -> None:
        spec = HeadSpec.from_section(section)
        channels = previous[-1].out_channels
        if channels != spec.num_channels:
            raise section.error(
                "mask and classes",
                f"such that len(mask) * (5 + classes) is the {channels} channels of the layer before",
                spec.num_channels,
                "Set that layer's filters to it.",
            )
        super().__init__([index - 1], channels, previous[-1].stride)
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        """(N, A·(5+C), H, W), unchanged."""
        return x


Previous: TypeAlias = list[Layer]
"""The image, as a layer, and the layers built so far: layer i stands at i + 1."""


def _earlier(section: Section, option: str, index: int) -> tuple[int, ...]:
    """Convert relative (negative) layer indices to absolute ones."""
    given = section.integers(option)
    absolute = tuple(i if i >= 0 else index + i for i in given)
    if any(not 0 <= i < index for i in absolute):
        raise section.error(
            option, f"layers before this one, which is layer {index}", section.options[option]
        )
    return absolute


_LAYERS: dict[str, Callable[[Section, int, Previous], Layer]] = {
    "convolutional": Convolutional,
    "maxpool": MaxPool,
    "upsample": Upsample,
    "route": Route,
    "shortcut": Shortcut,
    "yolo": YOLO,
}


def build_layer(section: Section, index: int, previous: Previous) -> Layer:
    """Build layer `index` from its section.

    Raises:
        ArgumentError: If the kind of section or one of its options is not supported, or does not fit the
            layers before it; the message gives the line.
    """
    if section.name not in _LAYERS:
        raise section.error("layer", f"one of [{'], ['.join(_LAYERS)}]", f"[{section.name}]")
    return _LAYERS[section.name](section, index, previous)
