"""What a frozen task says of decoded pictures, as a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from vcm.errors import ArgumentError
from vcm.losses.features import relative_errors
from vcm.modules.checks import check_between
from vcm.tasks import Task
from vcm.tasks.pseudo import pseudo_target
from vcm.types import Target

Supervision = Literal["labels", "pseudo", "features"]
Guide: TypeAlias = Target | dict[str, Tensor]
"""What a decoded picture is held against: a target, or the original's features by name, (C, h, w) each."""


class TaskSupervision:
    """A loss of decoded pictures against labels, pseudo-labels or the originals' features.

    Works in float32 under mixed precision, too.

    Args:
        task: Frozen, on the pictures' device when used.
        supervision: "labels", "pseudo" or "features"; see `NPPModule`.
        pseudo_score: Boxes on the originals at or above this score are pseudo-labels.

    Raises:
        ArgumentError: If the supervision is none of these, or the score not from 0 to 1.
    """

    def __init__(self, task: Task, supervision: Supervision, pseudo_score: float) -> None:
        if supervision not in ("labels", "pseudo", "features"):
            raise ArgumentError("supervision", expected="labels, pseudo or features", got=supervision)
        self.task, self.supervision = task, supervision
        self.pseudo_score = check_between("pseudo_score", pseudo_score, 0, 1)

    @torch.no_grad()
    def guides(self, images: list[Tensor], targets: Sequence[Target | None]) -> Sequence[Guide]:
        """What decoded versions of these originals are to be held against, one each.

        Args:
            images: (3, H, W) in [0, 1] each.
            targets: The data set's, one each; None where nobody labelled a picture.

        Raises:
            ArgumentError: If labels are asked for and a picture has none.
        """
        if self.supervision == "pseudo":
            return self.pseudo_labels(images)
        if self.supervision == "features":
            with torch.autocast(images[0].device.type, enabled=False):
                tensors = self.task.features(images).tensors
                return [{name: maps[place] for name, maps in tensors.items()} for place in range(len(images))]
        known = [target for target in targets if target is not None]
        if len(known) != len(images):
            raise ArgumentError(
                "supervision",
                expected="pseudo or features for pictures without labels",
                got=self.supervision,
                remedy="Or use a data set in which every picture is labelled.",
            )
        return known

    def pseudo_labels(self, images: list[Tensor]) -> list[Target]:
        """The task's own predictions on originals."""
        with torch.autocast(images[0].device.type, enabled=False):
            return [pseudo_target(found, self.pseudo_score) for found in self.task.predict(images)]

    def loss(self, decoded: list[Tensor], guides: Sequence[Guide]) -> Tensor:
        """The task's loss, or the features' relative errors averaged over pictures; a scalar with a gradient.

        Args:
            decoded: (3, H, W), about [0, 1].
            guides: What `guides` gave, one each.
        """
        if self.supervision == "features":
            return self.losses(decoded, guides).mean()
        with torch.autocast(decoded[0].device.type, enabled=False):
            return self.task.loss(decoded, [guide for guide in guides if not isinstance(guide, dict)])

    def losses(self, decoded: list[Tensor], guides: Sequence[Guide]) -> Tensor:
        """The loss of each picture for itself, (N,); arguments as for `loss`."""
        if self.supervision != "features":
            return torch.stack(
                [self.loss([image], [guide]) for image, guide in zip(decoded, guides, strict=True)]
            )
        with torch.autocast(decoded[0].device.type, enabled=False):
            found = self.task.features(decoded).tensors
            maps = [guide for guide in guides if isinstance(guide, dict)]
            return relative_errors(found, {name: torch.stack([m[name] for m in maps]) for name in found})
