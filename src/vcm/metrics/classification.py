"""Top-1 and top-5 accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from vcm.deprecation import former_arguments
from vcm.errors import ArgumentError
from vcm.types import ClassScores, ClassTarget


class TopKAccuracy(Metric):
    """Top-k accuracy: share of images whose true class is among the k classes with the highest scores.

    The state consists of one-dimensional float32 tensors, as in `DetectionAccuracy`.

    Args:
        ks: Values of k.
        **kwargs: Options of `torchmetrics.Metric`.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    places: list[Tensor]

    def __init__(self, ks: Sequence[int] = (1, 5), **kwargs: Any) -> None:  # noqa: ANN401  # passed on
        super().__init__(**kwargs)
        if not ks or min(ks) < 1:
            raise ArgumentError("ks", expected="whole numbers of at least 1", got=tuple(ks))
        self.ks = tuple(ks)
        self.add_state("places", default=[], dist_reduce_fx="cat")

    @former_arguments(predictions="preds", targets="target")
    def update(self, preds: Sequence[ClassScores], target: Sequence[ClassTarget]) -> None:
        """Add images, with one prediction and one target each.

        Raises:
            ArgumentError: If the numbers of preds and target differ.
        """
        if len(preds) != len(target):
            raise ArgumentError("preds", expected=f"one per target, {len(target)} in total", got=len(preds))
        for scores, true in zip(preds, target, strict=True):
            ranked = scores.logits.topk(min(max(self.ks), len(scores.logits))).indices
            (place,) = torch.nonzero(ranked == true.label, as_tuple=True)
            place = place if len(place) else torch.tensor([max(self.ks)])
            self.places.append(place.to(self.device, torch.float32))

    def compute(self) -> dict[str, Tensor]:
        """Return {"top_1": …, "top_5": …}, float32 scalars in [0, 1]; NaN if there are no images."""
        hits = self._hits().to(self.device)
        return {f"top_{k}": share for k, share in zip(self.ks, hits.float().mean(dim=0), strict=True)}

    def resampled(self, draws: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Return the accuracies on resamples of the images, (B,) each.

        Args:
            draws: Image indices (B, M) in the order of the updates.
        """
        hits = self._hits().numpy()
        return {f"top_{k}": hits[:, i][draws].mean(axis=1, dtype=np.float32) for i, k in enumerate(self.ks)}

    def _hits(self) -> Tensor:
        """Return (N, K) bool on the CPU: whether the true class is among the first k."""
        none_seen = isinstance(self.places, list) and not self.places
        places = torch.zeros(0) if none_seen else dim_zero_cat(self.places).cpu()
        return torch.stack([places < k for k in self.ks], dim=1)
