"""Shared data classes. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from vcm.errors import ArgumentError
from vcm.validation import is_number

if TYPE_CHECKING:
    from torch import Tensor

Settings: TypeAlias = dict[str, Any]
"""Settings of a codec, task or dataset as plain JSON values; part of a record's key."""

QUALITY_STEPS = 16
"""Qualities of learned codecs are multiples of 1/16, so that streams can store them exactly."""


@dataclass(frozen=True)
class QualityScale:
    """Meaning and range of a codec's `quality`.

    Attributes:
        name: Name of the quality parameter, such as "QP" or "quality".
        low: Smallest valid value.
        high: Largest valid value.
        higher_is_better: Whether a larger value gives a better image and more bytes.
        default: Default value of the codec.
        integer: Whether only whole numbers are valid.
    """

    name: str
    low: float
    high: float
    higher_is_better: bool
    default: float
    integer: bool = True

    def check(self, value: float) -> float:
        """Validate a quality and return it (as int on an integer scale).

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
    """Detections in one image, highest score first.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the original image.
        scores: (N,) float32 in [0, 1].
        labels: (N,) int64, 0-based indices into the task's `categories`.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class BoxTarget:
    """Ground-truth boxes of one image.

    Attributes:
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels.
        labels: (N,) int64, 0-based indices into the dataset's `categories`.
        is_crowd: (N,) bool, COCO crowd regions, in which detections are ignored.
        area: (N,) float32 in square pixels (of the mask if COCO provides one).
    """

    boxes: Tensor
    labels: Tensor
    is_crowd: Tensor
    area: Tensor


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Classifier output for one image.

    Attributes:
        logits: (C,) float32, over the task's `categories`.
    """

    logits: Tensor


@dataclass(frozen=True)
class ClassTarget:
    """Ground-truth class of one image: 0-based index into the dataset's `categories`."""

    label: int


Prediction: TypeAlias = Detections | ClassScores
Target: TypeAlias = BoxTarget | ClassTarget


@dataclass(frozen=True, eq=False)
class Prepared:
    """Images prepared for a task's network: resized, letterboxed or cropped, not yet normalized.

    Attributes:
        inputs: (N, 3, H', W') float, RGB in [0, 1].
        image_sizes: (height, width) of each original image in pixels.
    """

    inputs: Tensor
    image_sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Features:
    """Activations of a task network at its cut: everything that the tail needs.

    Attributes:
        tensors: Tensors needed after the cut, by the name of the layer that computed them. The first is the
            cut layer's output, (N, C, H', W'); there are others only if later layers use earlier outputs.
        image_sizes: (height, width) of each original image, to map boxes back to it.
    """

    tensors: dict[str, Tensor]
    image_sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Sample:
    """One image of a dataset.

    Attributes:
        image_id: Id that is unique in the dataset and stable between runs (a relative path or COCO's id).
        image: RGB image (3, H, W), uint8.
        target: Ground truth; None for an unlabelled image.
    """

    image_id: str
    image: Tensor
    target: Target | None
