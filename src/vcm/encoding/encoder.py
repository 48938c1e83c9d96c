"""Image encoder: optional scaling, preprocessing and search, followed by a standard codec."""

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
    """A prepared image with its codec.

    Attributes:
        image: RGB image (3, H, W) to encode, uint8.
        codec: Codec that encodes it.
        size: (height, width) of the original image.
        cached_s: Duration in seconds of the earlier search whose cached result was used; else 0.
    """

    image: Tensor
    codec: Codec
    size: tuple[int, int]
    cached_s: float = 0.0

    @property
    def scaled(self) -> tuple[int, int] | None:
        """(height, width) of `image` if it differs from the original's, else None."""
        height, width = self.image.shape[1:]
        return None if (height, width) == self.size else (height, width)


class Preprocessor(Protocol):
    """Transforms an image before a codec encodes it. Called from several threads at once.

    It may have a `name`, such as "npp", and a `title`, such as "NPP", which are used to label curves.
    """

    def __call__(self, image: Tensor) -> Tensor:
        """Transform an RGB image (3, H, W), uint8, to one of the same shape and type."""

    def settings(self) -> Settings:
        """Return everything that the output depends on, as plain JSON values."""


class ImageEncoder:
    """Encoder for a given task network: (scaling) → (preprocessor) → (search) → codec.

    ```
    x ─►(scale to the reader's size)─►(preprocessor)─►(search)─► codec.encode ─► bytes
                    └──────(importance ─► QP offsets)──────────────────┘
    ```

    Args:
        codec: Standard codec.
        task: Task network that reads the decoded images; required by `at_reader` and `search`, and by
            `importance` if it has neither a task nor a network of its own.
        preprocessor: Transform before the codec; None for none.
        at_reader: Whether to scale images down to the task's input size; they are never scaled up.
        importance: Settings of importance-based QP offsets; None for none.
        search: Settings of the pixel refinement before a `BPGCodec`; None for none.

    Raises:
        ArgumentError: If `preprocessor` is not a preprocessor, the codec does not support `importance` or
            `search`, or a required task is missing or not a `SplitTask`.
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
                expected="a callable with a settings() method",
                got=type(preprocessor).__name__,
            )
        if importance is not None:
            check_takes_offsets(codec)
        if search is not None:
            check_searchable(codec)
        needs_task = importance is not None and importance.needs_task
        if task is None and (at_reader or needs_task or search is not None):
            raise ArgumentError(
                "task",
                expected="a vcm.tasks.Task if at_reader, search, or importance without a network is set",
                got=None,
            )
        if needs_task:
            check_split_task("task", task, "an importance map")
        if search is not None and search.task is None:
            check_split_task("task", task, "a search")
        self.codec, self.task, self.preprocessor = codec, task, preprocessor
        self.at_reader, self.importance, self.search = at_reader, importance, search

    def settings(self) -> Settings:
        """Return the settings as plain JSON values, weights by SHA-256; without the task's own.

        Unused steps are omitted, so that earlier records keep their keys.
        """
        settings: Settings = {
            "preprocessor": None if self.preprocessor is None else self.preprocessor.settings(),
            "codec": self.codec.settings(),
        }
        if self.at_reader:
            settings["at_reader"] = True
        if self.importance is not None:
            settings["importance"] = self.importance.settings()
        if self.search is not None:
            settings["search"] = self.search.settings()
        return settings

    def encode(self, image: Tensor, on_step: OnStep | None = None) -> bytes:
        """Encode an image.

        Args:
            image: RGB image (3, H, W), uint8.
            on_step: Progress callback of the search; receives the steps done and the total.
        """
        ready = self.prepare(image, on_step)
        return ready.codec.encode(ready.image)

    def prepare(self, image: Tensor, on_step: OnStep | None = None) -> ToEncode:
        """Apply all steps before the codec: scaling, QP offsets, preprocessing and search.

        Args:
            image: RGB image (3, H, W), uint8.
            on_step: Progress callback of the search; receives the steps done and the total.
        """
        check_image(image)
        size = (image.shape[1], image.shape[2])
        codec = self.codec
        blocks: dict[str, Any] = {}
        if self.task is not None and self.at_reader:
            image = scale_to_reader(image, self.task)
        if self.importance is not None:
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
                expected=f"a callable that returns {tuple(image.shape)} {image.dtype} for this image",
                got=came,
                remedy="To scale images to the task's input size, set at_reader=true.",
            )
        return result
