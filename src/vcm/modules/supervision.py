"""Losses of decoded images by a frozen task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from vcm.errors import ArgumentError
from vcm.losses.outputs import relative_errors
from vcm.tasks import SplitTask, check_split_task
from vcm.tasks.base import pseudo_target
from vcm.tasks.distance import output_error
from vcm.types import Target
from vcm.validation import check_between

Supervision = Literal["labels", "pseudo", "features", "heads"]
Guide: TypeAlias = Target | dict[str, Tensor]
"""Training target: a `Target`, or tensors of the original image by name, without batch dimension."""
_OUTPUT = "output "
"""Prefix of raw outputs' names in a guide."""


class TaskSupervision:
    """Loss of decoded images against labels, pseudo-labels, or features or raw outputs of the originals.

    ```
    features   relative error of the features at the task's cut
    heads      0.1 · divergence of the raw outputs + feature_share · relative error of those features
    ```

    Always computed in float32, also under mixed precision.

    Args:
        task: Frozen task network, on the images' device.
        supervision: "labels", "pseudo", "features" or "heads"; see `NPPModule`.
        pseudo_score: Lowest score of a detection that becomes a pseudo-label, in [0, 1].
        feature_share: Weight of the feature error with "heads"; other task networks benefit from it.

    Raises:
        ArgumentError: If the task does not support the supervision, or a number is out of range.
    """

    def __init__(
        self, task: SplitTask, supervision: Supervision, pseudo_score: float, *, feature_share: float = 1.0
    ) -> None:
        if supervision not in get_args(Supervision):
            raise ArgumentError("supervision", expected="labels, pseudo, features or heads", got=supervision)
        check_split_task("task", task, "training through it")
        if supervision == "heads" and not task.has_heads:
            raise ArgumentError(
                "supervision",
                expected=f"labels, pseudo or features, because {task.name} has no raw outputs",
                got=supervision,
            )
        self.task, self.supervision = task, supervision
        self.pseudo_score = check_between("pseudo_score", pseudo_score, 0, 1)
        self.feature_share = check_between("feature_share", feature_share, 0, math.inf)

    @torch.no_grad()
    def guides(self, images: list[Tensor], targets: Sequence[Target | None]) -> Sequence[Guide]:
        """Return a training target for each original image.

        Args:
            images: (3, H, W) in [0, 1] each.
            targets: Targets of the dataset; None for an image without labels.

        Raises:
            ArgumentError: If the supervision is "labels" and an image has none.
        """
        if self.supervision == "pseudo":
            return self.pseudo_labels(images)
        if self.supervision in ("features", "heads"):
            with torch.autocast(images[0].device.type, enabled=False):
                tensors = self._tensors(images)
                return [{name: maps[place] for name, maps in tensors.items()} for place in range(len(images))]
        known = [target for target in targets if target is not None]
        if len(known) != len(images):
            raise ArgumentError(
                "supervision",
                expected="pseudo, features or heads for images without labels",
                got=self.supervision,
                remedy="Or use a dataset with labels for every image.",
            )
        return known

    def pseudo_labels(self, images: list[Tensor]) -> list[Target]:
        """Return the task's predictions on original images as targets."""
        with torch.autocast(images[0].device.type, enabled=False):
            return [pseudo_target(found, self.pseudo_score) for found in self.task.predict(images)]

    def loss(self, decoded: list[Tensor], guides: Sequence[Guide]) -> Tensor:
        """Compute the loss, averaged over images; a scalar with a gradient.

        Args:
            decoded: (3, H, W), about [0, 1].
            guides: Targets from `guides`.
        """
        if self.supervision in ("features", "heads"):
            return self.losses(decoded, guides).mean()
        with torch.autocast(decoded[0].device.type, enabled=False):
            return self.task.loss(decoded, [guide for guide in guides if not isinstance(guide, dict)])

    def losses(self, decoded: list[Tensor], guides: Sequence[Guide]) -> Tensor:
        """Compute the loss of each image, (N,); arguments as for `loss`."""
        if self.supervision not in ("features", "heads"):
            return torch.stack(
                [self.loss([image], [guide]) for image, guide in zip(decoded, guides, strict=True)]
            )
        with torch.autocast(decoded[0].device.type, enabled=False):
            found = self._tensors(decoded)
            maps = [guide for guide in guides if isinstance(guide, dict)]
            true = {name: torch.stack([m[name] for m in maps]) for name in found}
            if self.supervision == "features":
                return relative_errors(found, true)
            return output_error(self.task, _apart(found), _apart(true), self.feature_share)

    def _tensors(self, images: list[Tensor]) -> dict[str, Tensor]:
        """Return the features at the cut, and with "heads" the raw outputs, by name."""
        features = self.task.features(images)
        if self.supervision != "heads":
            return features.tensors
        outputs = self.task.outputs(features)
        return {**features.tensors, **{f"{_OUTPUT}{name}": value for name, value in outputs.items()}}


def _apart(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split tensors into features and raw outputs."""
    outputs = {
        name.removeprefix(_OUTPUT): value for name, value in tensors.items() if name.startswith(_OUTPUT)
    }
    return {name: value for name, value in tensors.items() if not name.startswith(_OUTPUT)}, outputs
