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
from vcm.nn.importance import ImportanceNetwork
from vcm.nn.weights import state_sha256
from vcm.tasks import SplitTask, Task, check_split_task
from vcm.types import Detections, Prediction, Settings
from vcm.validation import check_whole

NETWORK_ALPHA = 3.0
"""Default of `vcm encode --predict-importance`; predictions vary less than a task's own importance maps."""
_DIRECTIONS = 4


@dataclass(frozen=True)
class Importance:
    """Settings for QP offsets from a task's importance map.

    Args:
        task: Task that provides the importance map; None for the system's own task.
        alpha: QP steps per doubling of importance, at least 0.
        block: Block size in pixels: 16, 32 or 64.
        clip: Largest absolute offset, in [0, 51].
        directions: Number of random directions, at least 1; fewer are faster and noisier.
        network: Network that predicts the importance map, so that no task is run; None to compute it.

    Raises:
        ArgumentError: If an argument is out of range, or both a task and a network are given.
    """

    task: SplitTask | None = None
    alpha: float = 2.0
    block: int = 32
    clip: int = 9
    directions: int = _DIRECTIONS
    network: ImportanceNetwork | None = None

    def __post_init__(self) -> None:
        check_whole("directions", self.directions, 1)
        if self.task is not None:
            check_split_task("importance.task", self.task, "an importance map")
        if self.network is not None and not isinstance(self.network, ImportanceNetwork):
            raise ArgumentError(
                "importance.network",
                expected="an ImportanceNetwork, see vcm.nn.importance.load_importance",
                got=type(self.network).__name__,
            )
        if self.network is not None and self.task is not None:
            raise ArgumentError(
                "importance.network",
                expected="null, because importance.task is given",
                got=type(self.network).__name__,
            )
        qp_offsets(torch.ones(1, 1), alpha=self.alpha, block=self.block, clip=self.clip)

    @property
    def needs_task(self) -> bool:
        """Whether `offsets` runs the system's own task."""
        return self.task is None and self.network is None

    def offsets(self, image: Tensor, task: Task | None = None) -> Tensor:
        """Compute the QP offsets of an image's blocks.

        Args:
            image: RGB image (3, H, W), uint8.
            task: The system's own task, used if the constructor was given neither task nor network; must then
                be a `SplitTask`.

        Returns:
            Offsets (⌈H / block⌉, ⌈W / block⌉), int64.

        Raises:
            ArgumentError: If the task is not a `SplitTask`.
        """
        if self.network is not None:
            importance = self.network.importance(image.float() / 255)
        else:
            reader = self.task or check_split_task("task", task, "an importance map")
            # A task of one's own may take no `directions`.
            given = {} if self.directions == _DIRECTIONS else {"directions": self.directions}
            importance = reader.importance(image.float() / 255, **given)
        return qp_offsets(importance, alpha=self.alpha, block=self.block, clip=self.clip)

    def settings(self) -> Settings:
        """Return the settings as plain JSON values; the system's own task is in the records already."""
        settings: Settings = {
            "alpha": float(self.alpha),
            "block": self.block,
            "clip": self.clip,
            "task": None if self.task is None else self.task.settings(),
        }
        if self.directions != _DIRECTIONS:
            settings["directions"] = self.directions
        if self.network is not None:
            state = state_sha256(self.network.state_dict())
            settings["network"] = {**self.network.architecture(), "weights_sha256": state}
        return settings


class WithOffsets(Codec):
    """A codec bound to the QP offsets of one image.

    Args:
        codec: Codec with an `encode` method that takes `offsets` and `block`.
        offsets: Integer QP offsets (rows, columns).
        block: Block size in pixels.
    """

    def __init__(self, codec: Any, offsets: Tensor, block: int) -> None:  # noqa: ANN401  a codec with offsets
        self.codec, self.offsets, self.block = codec, offsets, block
        self.title = codec.title  # type: ignore[misc]  # the codec's own title, for messages

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
    """Return whether a codec takes QP offsets: `encode` has a parameter `offsets`, and it is not lossless."""
    return "offsets" in inspect.signature(codec.encode).parameters and not getattr(codec, "lossless", False)


def check_takes_offsets(codec: Codec) -> None:
    """Raise ArgumentError unless a codec takes QP offsets."""
    if not takes_offsets(codec):
        raise ArgumentError(
            "importance",
            expected="null, because this codec takes no QP offsets",
            got=f"importance with {codec!r}",
            remedy="Use a vcm.codecs.BPGCodec that is not lossless.",
        )


def scale_to_reader(image: Tensor, task: Task) -> Tensor:
    """Scale an image down to a task's input size with the task's interpolation.

    Args:
        image: RGB image (3, H, W), uint8.
        task: Task network that reads the image.

    Returns:
        Image (3, h, w), uint8; the input itself if the task reads it at its own size or larger.

    Raises:
        ArgumentError: If the task's `reader_size` is larger than the image, or not positive.
    """
    height, width = image.shape[1:]
    size = task.reader_size(height, width)
    if not (1 <= size[0] <= height and 1 <= size[1] <= width):
        raise ArgumentError(
            "reader_size", expected=f"in [(1, 1), {(height, width)}], the image's size", got=tuple(size)
        )
    return resample_pixels(image, size, task)


def resample_pixels(image: Tensor, size: Sequence[int], task: Task) -> Tensor:
    """Resample an image (3, H, W), uint8, to (height, width) with the task's interpolation, and round."""
    if tuple(image.shape[1:]) == tuple(size):
        return image
    with torch.no_grad():
        scaled = task.resample(image.float(), (int(size[0]), int(size[1])))
    return scaled.clamp(0, 255).round().to(torch.uint8)


def scale_prediction(prediction: Prediction, before: Sequence[int], after: Sequence[int]) -> Prediction:
    """Scale the boxes of a prediction to another size of the same image, and clip them.

    Args:
        prediction: Prediction on the image of size `before`.
        before: (height, width) in pixels.
        after: (height, width) in pixels.
    """
    if not isinstance(prediction, Detections) or tuple(before) == tuple(after):
        return prediction
    y, x = (new / old for new, old in zip(after, before, strict=True))
    from torchvision.ops import clip_boxes_to_image

    boxes = clip_boxes_to_image(prediction.boxes * prediction.boxes.new_tensor([x, y, x, y]), tuple(after))
    return Detections(boxes, prediction.scores, prediction.labels)
