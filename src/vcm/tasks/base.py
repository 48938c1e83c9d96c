"""Base class of task networks: what evaluation needs."""

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
    """A frozen reader of images with predictions and a metric: what evaluation needs.

    ```
    images ──► predict ──► predictions ──► metric
    ```

    Training, feature codecs, importance maps and searches need its second level, `SplitTask`.

    A subclass may wrap any program; its own networks, if any, stay in evaluation mode and without gradients
    of their parameters (`freeze`).

    Attributes:
        kind: What it predicts: `Detections` or `ClassScores`.
        name: Short name, as in configs and reports.
        categories: Names of its classes; predictions hold indices into these.
    """

    kind: ClassVar[Literal["detection", "classification"]]
    name: str
    categories: tuple[str, ...]

    def __init_subclass__(cls, **settings: object) -> None:
        """Check that a class that cuts a network is a `SplitTask`, which vcm 0.1 called `Task`.

        Raises:
            TypeError: If it is not.
        """
        super().__init_subclass__(**settings)
        if "tail" in vars(cls) and "predict" not in vars(cls) and not hasattr(cls, "check_later_cut"):
            raise TypeError(
                f"{cls.__name__} defines tail, so it must inherit from vcm.tasks.SplitTask, which was "
                "vcm.tasks.Task in vcm 0.1."
            )

    @abstractmethod
    def predict(self, images: Tensor | Sequence[Tensor]) -> list[Prediction]:
        """Return one prediction for each image, without gradients.

        Args:
            images: (N, 3, H, W), or a sequence of (3, H, W) of any sizes; float32 RGB in [0, 1], on `device`.
        """

    @abstractmethod
    def metric(self) -> Metric:
        """Return a new metric: `update(predictions, targets)`; `compute()` gives accuracies by name."""

    @abstractmethod
    def settings(self) -> Settings:
        """Return what decides the predictions, as plain JSON values, the SHA-256 of weights among them.

        Evaluations compare it: a record is measured again when it changes.
        """

    def check(self) -> None:
        """Check what an evaluation relies on before it starts.

        Raises:
            ArgumentError: If `kind`, `name`, `categories` or `settings` is missing or of another type.
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
        """Device of the parameters; the CPU where there are none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    def reader_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size at which the network reads an image, never larger than the image.

        An image scaled to it by `resample` carries what the network reads of it; a network that rounds sizes
        may scale it again, by a pixel. A task that does not override this reads images as they are.

        Args:
            height: The image's height in pixels, from 1.
            width: Its width in pixels, from 1.

        Returns:
            (height, width) in pixels, from 1.
        """
        return height, width

    def resample(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Scale an image by the reader's own interpolation; differentiable.

        A task that does not override this interpolates bilinearly, antialiased where it scales down.

        Args:
            image: (3, H, W), float.
            size: (height, width) in pixels, larger or smaller.

        Returns:
            (3, height, width).
        """
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]

    def train(self, mode: bool = True) -> Task:
        """Stay frozen: a task is always in evaluation mode."""
        del mode
        return super().train(False)

    def freeze(self) -> None:
        """Take the parameters out of training; constructors call this last.

        Weights are laid out with channels last, in which convolutions on a CPU take less time.
        """
        self.requires_grad_(False)
        self.train(False)
        self.to(memory_format=torch.channels_last)


def pseudo_target(prediction: Prediction, min_score: float) -> Target:
    """A task's prediction on an original, as a target (Fischer et al., arXiv 2205.06519).

    Args:
        prediction: Of one original image.
        min_score: Boxes below this score are not taken as objects, in [0, 1].
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
