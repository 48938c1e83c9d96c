"""Reader-aware encoding: input size and importance maps."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vcm.codecs import Codec, qp_offsets
from vcm.errors import ArgumentError
from vcm.tasks import SplitTask, Task, check_split_task
from vcm.types import Detections, Prediction, Settings


@dataclass(frozen=True)
class Importance:
    """Importance-driven QPs: how a map of QP offsets is made from a task's importance map.

    Args:
        task: Whose importance; None takes that of the system's own task.
        alpha: QP steps for each doubling of importance, from 0.
        block: Side of a block in pixels: 16, 32 or 64.
        clip: Largest absolute offset, from 0 to 51.

    Raises:
        ArgumentError: If an argument is out of range.
    """

    task: SplitTask | None = None
    alpha: float = 2.0
    block: int = 32
    clip: int = 9

    def __post_init__(self) -> None:
        if self.task is not None:
            check_split_task("importance.task", self.task, "an importance map")
        qp_offsets(torch.ones(1, 1), alpha=self.alpha, block=self.block, clip=self.clip)

    def offsets(self, image: Tensor, task: Task) -> Tensor:
        """Return the QP offsets of an image's blocks.

        Args:
            image: (3, H, W) uint8 RGB.
            task: Whose importance where none was given to the constructor; a `SplitTask` then.

        Returns:
            (⌈H / block⌉, ⌈W / block⌉) int64.

        Raises:
            ArgumentError: If the task is no `SplitTask`.
        """
        reader = self.task or check_split_task("task", task, "an importance map")
        importance = reader.importance(image.float() / 255)
        return qp_offsets(importance, alpha=self.alpha, block=self.block, clip=self.clip)

    def settings(self) -> Settings:
        """What decides the map, as plain JSON values; the system's own task is in its records anyway."""
        return {
            "alpha": float(self.alpha),
            "block": self.block,
            "clip": self.clip,
            "task": None if self.task is None else self.task.settings(),
        }


class WithOffsets(Codec):
    """A codec with the QP offsets of one image.

    Args:
        codec: Its `encode` takes `offsets` and `block`.
        offsets: (rows, columns) integers.
        block: Side of a block in pixels.
    """

    def __init__(self, codec: Any, offsets: Tensor, block: int) -> None:  # noqa: ANN401  a codec with offsets
        self.codec, self.offsets, self.block = codec, offsets, block
        self.title = codec.title  # type: ignore[misc]  # that of its codec, for messages

    def encode(self, image: Tensor) -> bytes:
        """See `Codec.encode`."""
        data: bytes = self.codec.encode(image, self.offsets, block=self.block)
        return data

    def decode(self, data: bytes) -> Tensor:
        """See `Codec.decode`."""
        image: Tensor = self.codec.decode(data)
        return image

    def interrupt(self) -> None:
        """See `Codec.interrupt`."""
        self.codec.interrupt()


def takes_offsets(codec: Codec) -> bool:
    """Whether a codec's `encode` takes QP offsets, and it is not lossless."""
    return "offsets" in inspect.signature(codec.encode).parameters and not getattr(codec, "lossless", False)


def check_takes_offsets(codec: Codec) -> None:
    """Raise ArgumentError unless a codec takes QP offsets."""
    if not takes_offsets(codec):
        raise ArgumentError(
            "importance",
            expected="null with a codec that takes no QP offsets",
            got=f"importance with {codec!r}",
            remedy="Use vcm.codecs.BPGCodec, not lossless.",
        )


def scale_to_reader(image: Tensor, task: Task) -> Tensor:
    """Scale an image to the size at which a task reads it, by the task's own interpolation, never up.

    Args:
        image: (3, H, W) uint8 RGB.
        task: The reader.

    Returns:
        (3, h, w) uint8; the very image where the task reads it at its own size or larger.

    Raises:
        ArgumentError: If the task states a size that is larger than the image, or none.
    """
    height, width = image.shape[1:]
    size = task.reader_size(height, width)
    if not (1 <= size[0] <= height and 1 <= size[1] <= width):
        raise ArgumentError(
            "reader_size", expected=f"from (1, 1) to the image's {(height, width)} pixels", got=tuple(size)
        )
    return resample_pixels(image, size, task)


def resample_pixels(image: Tensor, size: Sequence[int], task: Task) -> Tensor:
    """Resample (3, H, W) uint8 to a (height, width) by the task's own interpolation, rounded."""
    if tuple(image.shape[1:]) == tuple(size):
        return image
    with torch.no_grad():
        scaled = task.resample(image.float(), (int(size[0]), int(size[1])))
    return scaled.clamp(0, 255).round().to(torch.uint8)


def scale_prediction(prediction: Prediction, before: Sequence[int], after: Sequence[int]) -> Prediction:
    """Map a prediction to another size of the same image: boxes are scaled and clipped.

    Args:
        prediction: Of the image at the size `before`.
        before: (height, width) in pixels.
        after: (height, width) in pixels.
    """
    if not isinstance(prediction, Detections) or tuple(before) == tuple(after):
        return prediction
    y, x = (new / old for new, old in zip(after, before, strict=True))
    from torchvision.ops import clip_boxes_to_image

    boxes = clip_boxes_to_image(prediction.boxes * prediction.boxes.new_tensor([x, y, x, y]), tuple(after))
    return Detections(boxes, prediction.scores, prediction.labels)
