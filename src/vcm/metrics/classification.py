"""Top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from vcm.errors import ArgumentError
from vcm.types import ClassScores, ClassTarget


class TopKAccuracy(Metric):
    """Share of pictures whose true class is among the 1 and the 5 that score highest.

    Args:
        ks: Numbers of classes to look at.
        **kwargs: torchmetrics' own options.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    hits: Tensor
    total: Tensor

    def __init__(self, ks: Sequence[int] = (1, 5), **kwargs: Any) -> None:  # noqa: ANN401  # passed on
        super().__init__(**kwargs)
        if not ks or min(ks) < 1:
            raise ArgumentError("ks", expected="whole numbers from 1", got=tuple(ks))
        self.ks = tuple(ks)
        self.add_state("hits", default=torch.zeros(len(self.ks), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[ClassScores], targets: Sequence[ClassTarget]) -> None:
        """Add pictures, one prediction and one target each.

        Raises:
            ArgumentError: If there are not as many predictions as targets.
        """
        if len(predictions) != len(targets):
            raise ArgumentError(
                "predictions", expected=f"one a target, {len(targets)} in all", got=len(predictions)
            )
        for scores, target in zip(predictions, targets, strict=True):
            ranked = scores.logits.topk(min(max(self.ks), len(scores.logits))).indices
            self.hits += torch.stack([(ranked[:k] == target.label).any() for k in self.ks]).to(self.hits)
        self.total += len(targets)

    def compute(self) -> dict[str, Tensor]:
        """{"top_1": …, "top_5": …}, float32 scalars in [0, 1]; NaN where no picture was seen."""
        shares = self.hits.float() / self.total
        return {f"top_{k}": share for k, share in zip(self.ks, shares, strict=True)}
