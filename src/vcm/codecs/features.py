"""Feature codec interface: task input → bytes → features."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vcm.codecs.base import CodecSettings

if TYPE_CHECKING:
    from torch import Tensor

    from vcm.codecs.learned.effort import Objective
    from vcm.nn.slimmable import FeatureMap


class FeatureCodec(CodecSettings):
    """Turns a task's input into the bytes that would be sent, and those into the features at the task's cut.

    ```
    x ─► encode ─► bytes ─► decode ─► f̂, the image's size
    ```

    Like a `Codec` it is built with its settings, keeps nothing between calls, and keeps every constructor
    argument as an attribute of the same name, or overrides `settings`. `SlimmableFeatureCodec` is vcm's own.

    Attributes:
        effort: Steps of an encoder-side search for each image; 0 where there is none.
        objective: What a search lowers; evaluation sets it where `effort` is above 0 and it is None.
        guides: Layers after the cut at which such a search compares features.
    """

    effort: int = 0
    objective: Objective | None = None
    guides: tuple[str, ...] = ()

    def __new__(cls, *arguments: Any, **settings: Any) -> FeatureCodec:  # noqa: ANN401  a subclass's own
        """Make a `SlimmableFeatureCodec` of the class itself, which was that codec in 0.1."""
        del arguments, settings
        if cls is not FeatureCodec:
            return super().__new__(cls)
        from vcm.codecs.learned import SlimmableFeatureCodec

        warnings.warn(
            "vcm.codecs.FeatureCodec is an abstract class now. Use vcm.codecs.SlimmableFeatureCodec.",
            DeprecationWarning,
            stacklevel=2,
        )
        return super().__new__(SlimmableFeatureCodec)

    @property
    @abstractmethod
    def feature_map(self) -> FeatureMap:
        """Channels and stride of the features; a task must have those at its cut."""

    @abstractmethod
    def encode(
        self, x: Tensor, size: tuple[int, int], on_step: Callable[[int, int], None] | None = None
    ) -> bytes:
        """Encode a task's input.

        Args:
            x: (1, 3, H, W) float in [0, 1]: the image as the task's network sees it (`SplitTask.prepare`).
            size: (height, width) of the original image in pixels; it is sent along.
            on_step: Called during a search with the steps done and all of them.

        Raises:
            ArgumentError: If `x` is not such a tensor, or no image has that size.
            CodecError: If it cannot be coded.
        """

    @abstractmethod
    def decode(self, data: bytes) -> tuple[Tensor, tuple[int, int]]:
        """Decode to the features, (1, C, h, w) float, and the original image's (height, width).

        Raises:
            BitstreamError: If `data` is not a whole, undamaged stream of this codec.
        """
