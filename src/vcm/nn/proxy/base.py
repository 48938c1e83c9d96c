"""Interface of proxies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from vcm.deprecation import former_attribute
from vcm.errors import ArgumentError
from vcm.nn.gains import as_batch
from vcm.types import Settings
from vcm.validation import is_number


@dataclass(frozen=True, eq=False)
class ProxyOutput:
    """Output of a proxy, differentiable with respect to its input.

    Attributes:
        x_hat: (N, 3, H, W) estimates of the decoded images, about [0, 1], not clipped.
        bpp: (N,) estimated bits per pixel of each image.
    """

    x_hat: Tensor
    bpp: Tensor

    decoded = former_attribute("decoded", "x_hat")


class Proxy(nn.Module, ABC):
    """Differentiable proxy of a codec: images and a quality in, decoded images and their rate out.

    In training mode, noise may replace the rounding of symbols, which gives better gradients. In evaluation
    mode the output is deterministic.

    Args:
        codec: Name of the codec that it replaces, see `Codec.name`.
        qualities: Smallest and largest supported quality, on the codec's own scale.

    Attributes:
        codec_settings: Known settings of the codec that it was trained for, by name.
        relative_rate: Whether `bpp` is only proportional to the codec's rate, so that its gradient has to be
            scaled by the ratio of the two.
        takes_offsets: Whether `forward` takes QP offsets of blocks.

    Raises:
        ArgumentError: If the qualities are not two ascending numbers.
    """

    relative_rate: bool = False
    takes_offsets: bool = False

    def __init__(self, codec: str, qualities: Sequence[float]) -> None:
        super().__init__()
        self.codec_settings: Settings = {}
        self.codec, self.qualities = codec, tuple(qualities)
        numbers = len(self.qualities) == 2 and all(
            is_number(quality) and math.isfinite(quality) for quality in self.qualities
        )
        if not numbers or not self.qualities[0] < self.qualities[1]:
            raise ArgumentError("qualities", expected="the smallest and the largest quality", got=qualities)

    @abstractmethod
    def forward(self, x: Tensor, quality: float | Tensor) -> ProxyOutput:
        """Estimate the decoded images and the rate of the codec.

        Args:
            x: (N, 3, H, W) RGB in [0, 1], of any size from 1×1.
            quality: One quality for all images, or a tensor (N,), within `qualities`.

        Raises:
            ArgumentError: If a quality is out of range.
        """

    def condition(self, quality: float | Tensor, like: Tensor) -> Tensor:
        """Return the relative position of a quality in the proxy's range: (1,) or (N,), in [0, 1].

        Raises:
            ArgumentError: If it is out of range.
        """
        low, high = self.qualities
        batch = as_batch(quality, like)
        if not bool(((batch >= low) & (batch <= high)).all()):
            raise ArgumentError(
                "quality",
                expected=f"from {low:g} to {high:g}, for which this proxy of {self.codec} is",
                got=quality if is_number(quality) else batch.tolist(),
                remedy="Use qualities that it was trained for, or train a proxy for these.",
            )
        return (batch - low) / (high - low)

    def architecture(self) -> Settings:
        """Return the settings for `build_proxy`, as plain JSON values."""
        return {"network": type(self).__name__, "codec": self.codec, "qualities": list(self.qualities)}
