"""How far decoded features are from the originals', at the cut or deeper in the task's network."""

from __future__ import annotations

import torch
from torch import Tensor

from vcm.losses.features import relative_errors
from vcm.losses.rate_distortion import squared_error
from vcm.modules.checks import check_between
from vcm.tasks import Task
from vcm.types import Features


class FeatureDistance:
    """The distortion of a machine width.

    Without a guide the mean squared error at the cut, as published. With one, features are run on through the
    frozen network and held against each other there, where it shows what the task makes of an error: the
    relative error of all that is needed after the guide (`vcm.losses.features.relative_errors`), plus a share
    of that at the cut.

    Args:
        task: Frozen.
        guide: A layer at or after the task's cut; or None.
        near_weight: The share of the relative error at the cut.

    Raises:
        ArgumentError: If the task has no such layer, or the share is below 0.
    """

    def __init__(self, task: Task, guide: str | None, near_weight: float) -> None:
        self.task, self.guide = task, guide
        self.near_weight = check_between("near_weight", near_weight, 0, float("inf"))
        if guide is not None:
            task.check_later_cut(guide)

    def __call__(self, decoded: Tensor, target: Tensor) -> Tensor:
        """A scalar with a gradient; in float32 under mixed precision, too.

        Args:
            decoded: f̂, (N, C, h, w).
            target: f, of the same shape.
        """
        with torch.autocast(decoded.device.type, enabled=False):
            decoded, target = decoded.float(), target.float()
            if self.guide is None:
                return squared_error(decoded, target)
            with torch.no_grad():
                far_target = self._onward(target, self.guide)
            far = relative_errors(self._onward(decoded, self.guide), far_target)
            near = relative_errors({"": decoded}, {"": target})
            return (far + self.near_weight * near).mean()

    def _onward(self, feature: Tensor, guide: str) -> dict[str, Tensor]:
        sizes = ((0, 0),) * len(feature)  # of no meaning before the tail
        return self.task.onward(Features({self.task.cut: feature}, sizes), guide).tensors
