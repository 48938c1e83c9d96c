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
    """Encodes a task's input to bytes, and decodes the bytes to the features at the task's cut.

    ```
    x ─► encode ─► bytes ─► decode ─► f̂, original size
    ```

    Like a `Codec`, it gets its settings in the constructor and keeps no state between calls. It stores every
    constructor argument as an attribute of the same name, or overrides `settings`. `SlimmableFeatureCodec` is
    vcm's implementation.

    Attributes:
        effort: Steps of the encoder-side search per image; 0 for no search.
        objective: Objective of the search; evaluation sets it if `effort` is above 0 and it is None.
        guides: Layers after the cut at which the search compares features.
    """

    effort: int = 0
    objective: Objective | None = None
    guides: tuple[str, ...] = ()

    def __new__(cls, *arguments: Any, **settings: Any) -> FeatureCodec:  # noqa: ANN401  a subclass's own
        """Create a `SlimmableFeatureCodec` if called on this class, which was that codec in vcm 0.1."""
        del arguments, settings
        if cls is not FeatureCodec:
            return super().__new__(cls)
        from vcm.codecs.learned import SlimmableFeatureCodec

        warnings.warn(
            "vcm.codecs.FeatureCodec is now an abstract class. Use vcm.codecs.SlimmableFeatureCodec.",
            DeprecationWarning,
            stacklevel=2,
        )
        return super().__new__(SlimmableFeatureCodec)

    @property
    @abstractmethod
    def feature_map(self) -> FeatureMap:
        """Channels and stride of the decoded features; the task's features at its cut must match."""

    @abstractmethod
    def encode(
        self, x: Tensor, size: tuple[int, int], on_step: Callable[[int, int], None] | None = None
    ) -> bytes:
        """Encode a task's input.

        Args:
            x: Image (1, 3, H, W) in [0, 1], float, prepared for the task's network by `SplitTask.prepare`.
            size: (height, width) of the original image in pixels, which is stored in the stream.
            on_step: Progress callback of the search; receives the steps done and the total.

        Raises:
            ArgumentError: If `x` is not such a tensor, or `size` is not a valid image size.
            CodecError: If the encoder fails.
        """

    @abstractmethod
    def decode(self, data: bytes) -> tuple[Tensor, tuple[int, int]]:
        """Decode to features (1, C, h, w), float, and the (height, width) of the original image.

        Raises:
            BitstreamError: If `data` is not a complete, undamaged stream of this codec.
        """
