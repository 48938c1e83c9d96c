"""A task: a frozen network with a purpose, which can be cut in two."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from vcm.errors import ArgumentError
from vcm.types import Features, Prediction, Settings, Target


class Task(nn.Module, ABC):
    """A frozen network with a loss, predictions, a metric, and a cut into `features` and `tail`.

    ```
    images ──► features ──►(cut)──► tail ──► predictions
    ```

    Its parameters do not require gradients and its normalization layers stay in evaluation mode, whatever `train()`
    is called with; gradients still flow through it to the images.

    Attributes:
        kind: What it predicts: `Detections` or `ClassScores`.
        name: Short name, as in configs and reports.
        categories: Names of its classes; predictions hold indices into these.
        cut: Name of the layer after which `features` stops.
    """

    kind: ClassVar[Literal["detection", "classification"]]
    name: str
    categories: tuple[str, ...]
    cut: str

    @property
    @abstractmethod
    def cuts(self) -> tuple[str, ...]:
        """Names of every place where the network can be cut, from input to output."""

    @abstractmethod
    def features(self, images: Tensor | Sequence[Tensor]) -> Features:
        """Run the network up to and including the layer named `cut`.

        Args:
            images: (N, 3, H, W), or a sequence of (3, H, W) of any sizes; float32 RGB in [0, 1].
        """

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


def image_list(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Split a batch into a list of (3, H, W) pictures.

    Raises:
        ArgumentError: If any is not a float (3, H, W) tensor, or there is none.
    """
    pictures = list(images)
    for picture in pictures:
        if picture.ndim != 3 or picture.shape[0] != 3 or 0 in picture.shape or not picture.is_floating_point():
            raise ArgumentError(
                "images",
                expected="float (N, 3, H, W), or a sequence of (3, H, W), RGB in [0, 1]",
                got=f"{tuple(picture.shape)} {picture.dtype}",
            )
    if not pictures:
        raise ArgumentError("images", expected="at least one picture", got="none")
    return pictures
