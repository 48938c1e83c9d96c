"""Shared data classes. Importing this does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from vcm.errors import ArgumentError
from vcm.validation import is_number

if TYPE_CHECKING:
    from torch import Tensor

Settings: TypeAlias = dict[str, Any]
"""What makes a codec, task or data set what it is, as plain JSON values; part of a record's key."""

QUALITY_STEPS = 16
"""Learned codecs' qualities are multiples of a sixteenth, so that streams can say theirs exactly."""


@dataclass(frozen=True)
class QualityScale:
    """What a codec's `quality` means.

    Attributes:
        name: The codec's own word for it, such as "QP" or "quality".
        low: Smallest value allowed.
        high: Largest value allowed.
        higher_is_better: Whether a larger value gives a better image (and more bytes).
        default: What the codec takes when nothing is said.
        integer: Whether only whole numbers are allowed.
    """

    name: str
    low: float
    high: float
    higher_is_better: bool
    default: float
    integer: bool = True

    def check(self, value: float) -> float:
        """Return `value` (as int on an integer scale).

        Raises:
            ArgumentError: If it is not a number on this scale.
        """
        if (
            not is_number(value)
            or not self.low <= value <= self.high
            or (self.integer and value != int(value))
        ):
            kind = "a whole number" if self.integer else "a number"
            raise ArgumentError("quality", expected=f"{kind} from {self} ({self.name})", got=value)
        return int(value) if self.integer else float(value)

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True, eq=False)
class Detections:
    """Boxes that a detector predicts in one image, best first.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the original image.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64, 0-based index into the task's `categories`.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class BoxTarget:
    """True boxes of one image.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels.
        labels: (N,) int64, 0-based index into the data set's `categories`.
        is_crowd: (N,) bool, COCO's crowd regions: neither hit nor miss.
        area: (N,) float32 in square pixels (of the mask, where COCO gives one).
    """

    boxes: Tensor
    labels: Tensor
    is_crowd: Tensor
    area: Tensor


@dataclass(frozen=True, eq=False)
class ClassScores:
    """What a classifier says of one image.

    Attributes:
        logits: (C,) float32, over the task's `categories`.
    """

    logits: Tensor


@dataclass(frozen=True)
class ClassTarget:
    """True class of one image: 0-based index into the data set's `categories`."""

    label: int


Prediction: TypeAlias = Detections | ClassScores
Target: TypeAlias = BoxTarget | ClassTarget


@dataclass(frozen=True, eq=False)
class Prepared:
    """Images as a task's network takes them: resized, letterboxed or cropped, not yet normalized.

    Attributes:
        inputs: (N, 3, H', W') float, RGB in [0, 1].
        image_sizes: (height, width) of each original image in pixels.
    """

    inputs: Tensor
    image_sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Features:
    """A task network's state at its cut: what the tail needs, and nothing else.

    Attributes:
        tensors: Every tensor that is still needed after the cut, by the name of the layer that made it. The
            first is the cut layer's own output, (N, C, H', W'); others are there only where later layers
            reach back past the cut.
        image_sizes: (height, width) of each original image, to put boxes back where they belong.
    """

    tensors: dict[str, Tensor]
    image_sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a data set.

    Attributes:
        image_id: Unique within the data set, stable between runs (a relative path or COCO's own id).
        image: (3, H, W) uint8, RGB.
        target: What is true of it, or None where nobody labelled it.
    """

    image_id: str
    image: Tensor
    target: Target | None
