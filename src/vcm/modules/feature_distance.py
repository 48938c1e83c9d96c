"""How far decoded features are from the originals', at the cut or deeper in the task's network."""

from __future__ import annotations

import torch
from torch import Tensor

from vcm.errors import ArgumentError
from vcm.losses.rate_distortion import squared_error
from vcm.modules.checks import check_between
from vcm.tasks import Task
from vcm.types import Features

_SMALLEST_POWER = 1e-6


class FeatureDistance:
    """The distortion of a machine width.

    Without a guide the mean squared error at the cut, as published. With one, features are run on through the
    frozen network and held against each other there, where it shows what the task makes of an error: the
    relative error mean((f̂ − f)²) / mean(f²) at the guide, plus a share of that at the cut.

    Args:
        task: Frozen.
        guide: A layer at or after the task's cut, of which the tail needs nothing else; or None.
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
            far = relative_error(self._onward(decoded, self.guide), far_target)
            return far + self.near_weight * relative_error(decoded, target)

    def _onward(self, feature: Tensor, guide: str) -> Tensor:
        tensors = self.task.onward(
            Features({self.task.cut: feature}, ((0, 0),) * len(feature)), guide
        ).tensors
        if len(tensors) != 1:
            raise ArgumentError(
                "guides",
                expected="a layer after which one tensor is needed",
                got=f"{guide}, after which {', '.join(tensors)} are",
            )
        return next(iter(tensors.values()))


def relative_error(found: Tensor, true: Tensor) -> Tensor:
    """mean((f̂ − f)²) / mean(f²), over the batch; scalar."""
    return (found - true).pow(2).mean() / true.pow(2).mean().clamp(min=_SMALLEST_POWER)
