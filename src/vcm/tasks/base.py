"""A task: a frozen network with a purpose, which can be cut in two."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from vcm.errors import ArgumentError
from vcm.types import (
    BoxTarget,
    ClassTarget,
    Features,
    Prediction,
    Prepared,
    Settings,
    Target,
    is_number,
    is_whole,
)

if TYPE_CHECKING:
    from torchmetrics import Metric

MIN_BOX_SIDE = 0.01
"""Shortest side, in pixels, of a box that a loss takes; float32 resolves 0.001 at coordinate 10,000."""

PIXEL_OVERSHOOT = 0.5
"""How far outside [0, 1] a pixel may be: a network's output overshoots a little."""

TargetT = TypeVar("TargetT", BoxTarget, ClassTarget)


class Task(nn.Module, ABC):
    """A frozen network with a loss, predictions, a metric, and a cut into `features` and `tail`.

    ```
    images ──► prepare ──► encode ──►(cut)──► tail ──► predictions
               └──── features ────┘
    ```

    Its parameters do not require gradients and its normalization layers stay in evaluation mode, whatever
    `train()` is called with; gradients still flow through it to the images.

    Attributes:
        kind: What it predicts: `Detections` or `ClassScores`.
        name: Short name, as in configs and reports.
        categories: Names of its classes; predictions hold indices into these.
        cut: Name of the layer after which `features` stops.
        weights_sha256: Of its weights; part of `settings`.
    """

    kind: ClassVar[Literal["detection", "classification"]]
    name: str
    categories: tuple[str, ...]
    cut: str
    weights_sha256: str

    @property
    @abstractmethod
    def cuts(self) -> tuple[str, ...]:
        """Names of every place where the network can be cut, from input to output."""

    @abstractmethod
    def prepare(self, images: Tensor | Sequence[Tensor]) -> Prepared:
        """Bring pictures to the sizes that the network takes: what a codec for this task encodes.

        Args:
            images: (N, 3, H, W), or a sequence of (3, H, W) of any sizes; float32 RGB in [0, 1].
        """

    @abstractmethod
    def encode(self, prepared: Prepared) -> Features:
        """Run the network on prepared pictures, up to and including the layer named `cut`.

        Args:
            prepared: What `prepare` gives; any inputs whose sides are multiples of the network's stride do,
                such as training crops.
        """

    def cut_feature(self, prepared: Prepared) -> Tensor:
        """The cut layer's own output, (N, C, H', W'), where the tail needs nothing else.

        Args:
            prepared: As `encode` takes it.

        Raises:
            ArgumentError: If the tail needs other tensors too.
        """
        tensors = self.encode(prepared).tensors
        if len(tensors) != 1:
            raise ArgumentError(
                "cut",
                expected="a cut after which one tensor is needed",
                got=f"{self.cut}, after which {', '.join(tensors)} are",
            )
        return next(iter(tensors.values()))

    def onward(self, features: Features, cut: str) -> Features:
        """Run the network on from its own cut, up to and including a later layer; gradients flow.

        A task that does not override this stays where it is cut.

        Args:
            features: As `tail` takes them.
            cut: One of `cuts`, this task's own or a later one.

        Returns:
            What `encode` would give if the task were cut there.

        Raises:
            ArgumentError: If there is no such layer, or it comes before the task's own cut.
        """
        if cut != self.cut:
            raise ArgumentError("cut", expected=f"{self.cut}, where {self.name} is cut", got=cut)
        return features

    def features(self, images: Tensor | Sequence[Tensor]) -> Features:
        """`encode(prepare(images))`.

        Args:
            images: As `prepare` takes them.
        """
        return self.encode(self.prepare(images))

    @abstractmethod
    def tail(self, features: Features) -> list[Prediction]:
        """Run the rest of the network on `features` and return one prediction a picture."""

    def predict(self, images: Tensor | Sequence[Tensor]) -> list[Prediction]:
        """Predict for each picture: `tail(features(images))`, without gradients.

        Args:
            images: As `features` takes them.
        """
        with torch.no_grad():
            return self.tail(self.features(images))

    @abstractmethod
    def loss(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """The task's own training loss, a scalar, differentiable with respect to `images`.

        Args:
            images: As `features` takes them.
            targets: One a picture; labels are indices into this task's `categories`.
        """

    @abstractmethod
    def metric(self) -> Metric:
        """A new metric: `update(predictions, targets)`, then `compute()` gives a dict of named accuracies."""

    @abstractmethod
    def settings(self) -> Settings:
        """What makes the task what it is, as plain JSON values, the weights' SHA-256 among them."""

    def train(self, mode: bool = True) -> Task:
        """Stay frozen: a task is always in evaluation mode."""
        del mode
        return super().train(False)

    def freeze(self) -> None:
        """Take the parameters out of training; constructors call this last."""
        self.requires_grad_(False)
        self.train(False)

    def check_cut(self, cut: str) -> str:
        """Return `cut` if this network has it.

        Raises:
            ArgumentError: If it has not; the message lists those it has.
        """
        if cut not in self.cuts:
            raise ArgumentError("cut", expected=f"one of {', '.join(self.cuts)}", got=cut)
        return cut

    def check_later_cut(self, cut: str) -> str:
        """Return `cut` if this network has it, and not before the task's own.

        Raises:
            ArgumentError: If it has not.
        """
        later = self.cuts[self.cuts.index(self.cut) :]
        if cut not in later:
            raise ArgumentError("cut", expected=f"one from {self.cut} on: {', '.join(later)}", got=cut)
        return cut


def check_targets(
    targets: Sequence[Target], kind: type[TargetT], num_images: int, num_classes: int
) -> list[TargetT]:
    """Return `targets` if they fit the pictures and the task.

    Args:
        targets: What came.
        kind: `BoxTarget` or `ClassTarget`.
        num_images: Number of pictures.
        num_classes: Number of classes of the task.

    Raises:
        ArgumentError: If there is not one of the right kind a picture, or a label is outside the task's
            classes.
    """
    if len(targets) != num_images:
        raise ArgumentError("targets", expected=f"one a picture, {num_images} in all", got=len(targets))
    checked = []
    for target in targets:
        if not isinstance(target, kind):
            raise ArgumentError("targets", expected=f"{kind.__name__} records", got=type(target).__name__)
        labels = [target.label] if isinstance(target, ClassTarget) else target.labels.tolist()
        if wrong := [label for label in labels if not 0 <= label < num_classes]:
            raise ArgumentError(
                "labels",
                expected=f"from 0 to {num_classes - 1}, indices into the task's categories",
                got=wrong[0],
                remedy="Map the data set's categories to the task's with vcm.categories.match_categories.",
            )
        checked.append(target)
    return checked


def check_features(features: Features, needed: Sequence[str]) -> None:
    """Raise ArgumentError unless `features` holds exactly the tensors that are `needed` after the cut, of as
    many pictures as it has sizes.
    """
    if set(features.tensors) != set(needed):
        raise ArgumentError(
            "features",
            expected=f"the tensors that are needed after the cut: {', '.join(needed)}",
            got=", ".join(features.tensors) or "none",
            remedy="Give what features() of a task with the same cut returns, replacing tensors by name.",
        )
    batches = {name: len(tensor) for name, tensor in features.tensors.items()}
    if set(batches.values()) != {len(features.image_sizes)}:
        raise ArgumentError(
            "features",
            expected=f"tensors of {len(features.image_sizes)} pictures, as image_sizes has",
            got=batches,
        )


def check_fraction(argument: str, value: float) -> float:
    """Return `value` if it is a number from 0 to 1.

    Raises:
        ArgumentError: If it is not.
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise ArgumentError(argument, expected="a number from 0 to 1", got=value)
    return float(value)


def check_whole(argument: str, value: int) -> int:
    """Return `value` if it is a whole number of at least 1.

    Raises:
        ArgumentError: If it is not.
    """
    if not is_whole(value) or value < 1:
        raise ArgumentError(argument, expected="a whole number from 1", got=value)
    return int(value)


def trainable_boxes(target: BoxTarget, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes that a detector can be trained with, and their labels.

    Crowd regions are left out; boxes are clipped to the picture, and left out where less than 0.01 pixel a
    side remains or a coordinate is NaN.

    Args:
        target: What is true of the picture.
        height: The picture's height in pixels.
        width: The picture's width in pixels.

    Returns:
        (M, 4) x1 y1 x2 y2 in pixels, and (M,) labels.
    """
    boxes = clip_boxes_to_image(target.boxes.reshape(-1, 4), (height, width))
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX_SIDE).all(dim=1) & ~target.is_crowd
    return boxes[keep], target.labels[keep]


def image_list(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Split a batch into a list of (3, H, W) pictures.

    Raises:
        ArgumentError: If any is not a float (3, H, W) tensor or has pixels that are NaN, infinite, or far
            outside [0, 1]; or there is none.
    """
    pictures = list(images)
    for picture in pictures:
        if not isinstance(picture, Tensor):
            raise ArgumentError("images", expected="torch tensors", got=type(picture).__name__)
        if (
            picture.ndim != 3
            or picture.shape[0] != 3
            or 0 in picture.shape
            or not picture.is_floating_point()
        ):
            raise ArgumentError(
                "images",
                expected="float (N, 3, H, W), or a sequence of (3, H, W), RGB in [0, 1]",
                got=f"{tuple(picture.shape)} {picture.dtype}",
            )
        low, high = (value.item() for value in picture.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ArgumentError("images", expected="finite, RGB in [0, 1]", got="NaN or infinite pixels")
        if low < -PIXEL_OVERSHOOT or high > 1 + PIXEL_OVERSHOOT:
            raise ArgumentError(
                "images",
                expected=f"RGB in [0, 1], {PIXEL_OVERSHOOT} beyond it at most",
                got=f"pixels from {low:.4g} to {high:.4g}",
                remedy="Divide pixels of 0 to 255 by 255; clamp a network's output.",
            )
    if not pictures:
        raise ArgumentError("images", expected="at least one picture", got="none")
    return pictures
