"""Base class of task networks, with everything that evaluation needs."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.types import BoxTarget, ClassScores, ClassTarget, Prediction, Settings, Target

if TYPE_CHECKING:
    from torchmetrics import Metric


class Task(nn.Module, ABC):
    """A frozen network (or program) that reads images, with its predictions and metric.

    ```
    images ──► predict ──► predictions ──► metric
    ```

    This is all that evaluation needs. Training, feature codecs, importance maps and searches need a
    `SplitTask`.

    A subclass may wrap any program. Its networks, if any, stay in evaluation mode and their parameters have
    no gradients (`freeze`).

    Attributes:
        kind: Type of its predictions: "detection" (`Detections`) or "classification" (`ClassScores`).
        name: Short name, used in configs and reports.
        categories: Class names; predictions contain indices into them.
    """

    kind: ClassVar[Literal["detection", "classification"]]
    name: str
    categories: tuple[str, ...]

    def __init_subclass__(cls, **settings: object) -> None:
        """Reject subclasses that define `tail` without inheriting from `SplitTask` (`Task` in vcm 0.1).

        Raises:
            TypeError: If a subclass defines `tail` without `predict` and is not a `SplitTask`.
        """
        super().__init_subclass__(**settings)
        if "tail" in vars(cls) and "predict" not in vars(cls) and not hasattr(cls, "check_later_cut"):
            raise TypeError(
                f"{cls.__name__} defines tail, so it must inherit from vcm.tasks.SplitTask, which was "
                "vcm.tasks.Task in vcm 0.1."
            )

    @abstractmethod
    def predict(self, images: Tensor | Sequence[Tensor]) -> list[Prediction]:
        """Return one prediction per image, without gradients.

        Args:
            images: RGB images in [0, 1], float32, on `device`: (N, 3, H, W), or a sequence of (3, H, W) of
                any sizes.
        """

    @abstractmethod
    def metric(self) -> Metric:
        """Return a new metric, with `update(predictions, targets)` and `compute()` for accuracies by name."""

    @abstractmethod
    def settings(self) -> Settings:
        """Return everything that determines the predictions, including the weights' SHA-256, as JSON values.

        Evaluations measure again if the settings change.
        """

    def check(self) -> None:
        """Validate the task before an evaluation.

        Raises:
            ArgumentError: If `kind`, `name`, `categories` or `settings` is missing or has the wrong type.
        """
        name, categories = getattr(self, "name", None), getattr(self, "categories", None)
        kind = getattr(self, "kind", None)
        if kind not in ("detection", "classification"):
            raise self._misfit("kind", "detection or classification", kind)
        if not isinstance(name, str):
            raise self._misfit("name", "a string", name)
        if not isinstance(categories, (list, tuple)) or not all(isinstance(c, str) for c in categories):
            raise self._misfit("categories", "a tuple of class names", categories)
        settings = self.settings()
        try:
            json.dumps(settings)
        except (TypeError, ValueError) as error:
            raise self._misfit("settings()", "plain JSON values", str(error)) from error

    def _misfit(self, attribute: str, expected: str, got: object) -> ArgumentError:
        return ArgumentError(f"{type(self).__name__}.{attribute}", expected=expected, got=got)

    @property
    def device(self) -> torch.device:
        """Device of the parameters; the CPU if there are none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def reader_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size to which the network scales an image, never larger than the image.

        An image that `resample` scales to this size contains everything that the network uses. A network that
        rounds sizes may scale it again, by a pixel. The default is the image's own size.

        Args:
            height: Image height in pixels, at least 1.
            width: Image width in pixels, at least 1.

        Returns:
            (height, width) in pixels, at least 1.
        """
        return height, width

    def resample(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Scale an image with the task's own interpolation; differentiable.

        The default is bilinear, with antialiasing when scaling down.

        Args:
            image: Image (3, H, W), float.
            size: (height, width) in pixels, smaller or larger than the image.

        Returns:
            Image (3, height, width).
        """
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]

    def train(self, mode: bool = True) -> Task:
        """Stay in evaluation mode: tasks are always frozen."""
        del mode
        return super().train(False)

    def freeze(self) -> None:
        """Freeze the parameters; constructors call this last.

        Weights are converted to channels-last layout, which makes convolutions on a CPU faster.
        """
        self.requires_grad_(False)
        self.train(False)
        self.to(memory_format=torch.channels_last)


def pseudo_target(prediction: Prediction, min_score: float) -> Target:
    """Convert a task's prediction on an original image to a target (Fischer et al., arXiv 2205.06519).

    Args:
        prediction: Prediction on one original image.
        min_score: Lowest score of a detection that becomes an object, in [0, 1].
    """
    if isinstance(prediction, ClassScores):
        return ClassTarget(int(prediction.logits.argmax()))
    kept = prediction.scores >= min_score
    boxes = prediction.boxes[kept]
    return BoxTarget(
        boxes=boxes,
        labels=prediction.labels[kept],
        is_crowd=torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    )
