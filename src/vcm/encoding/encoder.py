"""Image encoder: everything before a standard codec, and the codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from vcm.codecs import Codec
from vcm.codecs.base import check_image
from vcm.encoding.reader import Importance, WithOffsets, check_takes_offsets, scale_to_reader
from vcm.encoding.refinement import OnStep
from vcm.encoding.search import ImageSearch, check_searchable
from vcm.errors import ArgumentError
from vcm.tasks import Task, check_split_task
from vcm.types import Settings


@dataclass(frozen=True, eq=False)
class ToEncode:
    """An image on its way to the encoder.

    Attributes:
        image: (3, H, W) uint8 RGB.
        codec: What encodes it.
        size: (height, width) of the original.
        cached_s: Seconds that an earlier search for it took, where that was not repeated.
    """

    image: Tensor
    codec: Codec
    size: tuple[int, int]
    cached_s: float = 0.0

    @property
    def scaled(self) -> tuple[int, int] | None:
        """(height, width) where it is not the original's."""
        height, width = self.image.shape[1:]
        return None if (height, width) == self.size else (height, width)


class Preprocessor(Protocol):
    """Changes an image before a codec encodes it; called from several threads at once.

    It may have a `name`, such as "npp", and a `title`, such as "NPP", for the names of its curves.
    """

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 RGB in, and out in the same size."""

    def settings(self) -> Settings:
        """What makes it what it is, as plain JSON values."""


class ImageEncoder:
    """(Reader's size) → (preprocessor) → (search) → codec.

    ```
    x ─►(scale to the reader's size)─►(preprocessor)─►(search)─► codec.encode ─► bytes
                    └──────(importance ─► QP offsets)──────────────────┘
    ```

    Args:
        codec: Encodes.
        task: The reader; None where nothing else asks for one.
        preprocessor: Changes the image before the codec; None for nothing.
        at_reader: Whether images are scaled to the size at which the task reads them, never up.
        importance: How QP offsets are made from importance; None for none.
        search: How pixels are refined before the codec, which is then a `BPGCodec`; None for not at all.

    Raises:
        ArgumentError: If the preprocessor is not one, the codec takes no QP offsets and `importance` asks
            for them, it is not one that a search can be made for, or a task is missing or no `SplitTask`
            where one is needed.
    """

    def __init__(
        self,
        codec: Codec,
        task: Task | None = None,
        *,
        preprocessor: Preprocessor | None = None,
        at_reader: bool = False,
        importance: Importance | None = None,
        search: ImageSearch | None = None,
    ) -> None:
        if preprocessor is not None and not (callable(preprocessor) and hasattr(preprocessor, "settings")):
            raise ArgumentError(
                "preprocessor",
                expected="a callable with a method settings()",
                got=type(preprocessor).__name__,
            )
        if importance is not None:
            check_takes_offsets(codec)
        if search is not None:
            check_searchable(codec)
        if task is None and (at_reader or importance is not None or search is not None):
            raise ArgumentError(
                "task", expected="a vcm.tasks.Task with at_reader, importance or search", got=None
            )
        if importance is not None and importance.task is None:
            check_split_task("task", task, "an importance map")
        if search is not None and search.task is None:
            check_split_task("task", task, "a search")
        self.codec, self.task, self.preprocessor = codec, task, preprocessor
        self.at_reader, self.importance, self.search = at_reader, importance, search

    def encode(self, image: Tensor, on_step: OnStep | None = None) -> bytes:
        """Encode an image.

        Args:
            image: (3, H, W) uint8 RGB.
            on_step: Called during a search with the steps done and all of them.
        """
        ready = self.prepare(image, on_step)
        return ready.codec.encode(ready.image)

    def prepare(self, image: Tensor, on_step: OnStep | None = None) -> ToEncode:
        """Scale, compute QP offsets, preprocess, search: whatever comes before the codec.

        Args:
            image: (3, H, W) uint8 RGB.
            on_step: Called during a search with the steps done and all of them.
        """
        check_image(image)
        size = (image.shape[1], image.shape[2])
        codec = self.codec
        blocks: dict[str, Any] = {}
        if self.task is not None and self.at_reader:
            image = scale_to_reader(image, self.task)
        if self.task is not None and self.importance is not None:
            offsets = self.importance.offsets(image, self.task)
            codec = WithOffsets(codec, offsets, self.importance.block)
            blocks = {"offsets": offsets, "block": self.importance.block}
        start = image if self.preprocessor is None else self._preprocess(self.preprocessor, image)
        if self.task is None or self.search is None:
            return ToEncode(start, codec, size)
        found = self.search.run(image, start, self.codec, self.task, **blocks, on_step=on_step)
        return ToEncode(found.image, codec, size, found.cached_s)

    def _preprocess(self, preprocessor: Preprocessor, image: Tensor) -> Tensor:
        result = preprocessor(image)
        if not isinstance(result, Tensor) or result.shape != image.shape or result.dtype != image.dtype:
            came = (
                f"{tuple(result.shape)} {result.dtype}"
                if isinstance(result, Tensor)
                else type(result).__name__
            )
            raise ArgumentError(
                "preprocessor",
                expected=f"a callable that gives {tuple(image.shape)} {image.dtype} here",
                got=came,
                remedy="For the reader's size, set at_reader=true.",
            )
        return result
