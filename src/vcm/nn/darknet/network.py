"""Darknet network with partial execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.nn.darknet.cfg import Section
from vcm.nn.darknet.head import HeadSpec
from vcm.nn.darknet.layers import YOLO, Convolutional, Layer, Shortcut, build_layer
from vcm.nn.weights import at_most

MAX_WEIGHTS = 1 << 28
"""Most weights of a network from a cfg; the largest published ones have about 150 million."""
IMAGE = -1
"""The image's index, one before the first layer's."""


class Darknet(nn.Module):
    """Network described by a Darknet cfg.

    ```
    image ─► layer0 ─► layer1 ─► … ─► layerN       a layer reads the one before it, or earlier ones by number
                  │        ▲   │
                  └────────┘   └─► head 0, head 1, …  (raw outputs of the [yolo] layers)
    ```

    Weights start He-normal; the last normalization of every residual branch starts at 0.25, which keeps the
    scale of activations stable over many shortcuts while running statistics are 0 and 1.

    Args:
        sections: A parsed cfg, `[net]` first.

    Attributes:
        height: Input height of `[net]` in pixels; any multiple of `stride` works.
        width: Input width of `[net]` in pixels; any multiple of `stride` works.
        stride: Stride of the coarsest layer in pixels.
        head_layers: Indices of the detection heads.

    Raises:
        ArgumentError: If the cfg needs an unsupported feature or more than 2^28 weights; the message gives
            section and line.
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        super().__init__()
        net = sections[0]
        if (channels := net.integer("channels", 3)) != 3:
            raise net.error("channels", "3 (RGB)", channels)
        self.height, self.width = net.integer("height", 416, low=1), net.integer("width", 416, low=1)
        layers = [Layer([], 3, 1.0)]
        with at_most(MAX_WEIGHTS, "Darknet's limit here"):
            for index, section in enumerate(sections[1:]):
                try:
                    layers.append(build_layer(section, index, layers))
                except (RuntimeError, OverflowError, TypeError) as error:  # sizes beyond torch's numbers
                    raise section.error("layer", "one that torch can build", str(error)) from error
        self.layers = nn.ModuleList(layers[1:])
        self.stride = int(max(layer.stride for layer in layers))
        self.head_layers = tuple(i for i, layer in enumerate(self.layers) if isinstance(layer, YOLO))
        if not self.head_layers:
            raise ArgumentError("cfg", expected="a detector with at least one [yolo] section", got="none")
        for name, size in (("height", self.height), ("width", self.width)):
            if size % self.stride:
                raise net.error(name, f"a multiple of the network's stride, {self.stride}", size)
        self._live = self._find_live()
        self._initialize()

    def __len__(self) -> int:
        return len(self.layers)

    def layer(self, index: int) -> Layer:
        """Return layer `index`, from 0."""
        layer = self.layers[index]
        assert isinstance(layer, Layer)
        return layer

    @property
    def heads(self) -> tuple[HeadSpec, ...]:
        """Specifications of the detection heads."""
        return tuple(layer.spec for layer in self.layers if isinstance(layer, YOLO))

    def live_after(self, index: int) -> tuple[int, ...]:
        """Return the layers whose outputs are needed after layer `index`: itself first, then ascending.

        These are the outputs that later layers read, and those of earlier detection heads.
        """
        return self._live[index]

    def last_shared_layer(self) -> int:
        """Return the last layer that all detection heads depend on."""
        sources = [set(self.layer(head).sources) for head in self.head_layers]
        above = [set.union(*(self._ancestors(i) for i in outputs)) for outputs in sources]
        return max(set.intersection(*above) - {IMAGE}, default=0)

    def _ancestors(self, index: int) -> set[int]:
        """Return all layers that a layer depends on."""
        found: set[int] = set()
        for layer in reversed(range(index + 1)):
            if layer == index or layer in found:
                found.update(self.layer(layer).sources)
        return found

    def run(self, live: Mapping[int, Tensor], start: int, stop: int) -> dict[int, Tensor]:
        """Run layers `start` to `stop`, inclusive.

        Args:
            live: Outputs by layer index that are live after layer `start` − 1, or {IMAGE: (N, 3, H, W)}.
            start: First layer to run.
            stop: Last layer to run.

        Returns:
            Outputs by layer index that are live after layer `stop`.
        """
        outputs = dict(live)
        for index in range(start, stop + 1):
            outputs[index] = self.layers[index](*(outputs[source] for source in self.layer(index).sources))
            outputs = {i: outputs[i] for i in self._live[index]}
        return outputs

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the raw outputs of all heads, (N, A·(5+C), H/s, W/s), for images (N, 3, H, W) in [0, 1]."""
        outputs = self.run({IMAGE: images}, 0, len(self) - 1)
        return [outputs[index] for index in self.head_layers]

    def fold(self) -> None:
        """Fold all batch normalizations into convolutions, which is equal in evaluation mode and faster."""
        for layer in self.layers:
            if isinstance(layer, Convolutional):
                layer.fold()

    def _find_live(self) -> list[tuple[int, ...]]:
        """Compute `live_after` for all layers."""
        live, needed = [], set(self.head_layers)
        for index in reversed(range(len(self))):
            live.append((index, *sorted(i for i in needed if 0 <= i < index)))
            needed.update(self.layer(index).sources)
        return live[::-1]

    def _initialize(self) -> None:
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Convolutional):
                nn.init.kaiming_normal_(layer.conv.weight, a=0.1)
            elif isinstance(layer, Shortcut):
                branch = self.layers[index - 1]
                if isinstance(branch, Convolutional) and branch.norm is not None:
                    nn.init.constant_(branch.norm.weight, 0.25)
