"""COCO average precision and recall."""

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
from vcm.metrics.coco import COCOMatches
from vcm.types import BoxTarget, Detections


class DetectionAccuracy(Metric):
    """COCO's twelve detection metrics, as computed by pycocotools; `map` averages over IoU 0.50:0.05:0.95.

    Lin et al., "Microsoft COCO", arXiv 1405.0312. Labels of predictions and targets must be indices into the
    same list of categories. Detections in crowd regions are ignored; the ground-truth `area` decides between
    small, medium and large. A metric that is undefined, such as `map_small` without small ground-truth boxes,
    is NaN (−1 in pycocotools).

    The state consists of one-dimensional float32 tensors that are concatenated across processes, so that
    processes may have seen different numbers of images, or none.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    prediction_rows: list[Tensor]
    prediction_counts: list[Tensor]
    target_rows: list[Tensor]
    target_counts: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401  # torchmetrics' own options
        super().__init__(**kwargs)
        for state in ("prediction_rows", "prediction_counts", "target_rows", "target_counts"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    @former_arguments(predictions="preds", targets="target")
    def update(self, preds: Sequence[Detections], target: Sequence[BoxTarget]) -> None:
        """Add images.

        Args:
            preds: One per image.
            target: One per image.

        Raises:
            ArgumentError: If the numbers of preds and target differ.
        """
        if len(preds) != len(target):
            raise ArgumentError("preds", expected=f"one per target, {len(target)} in total", got=len(preds))
        for found, true in zip(preds, target, strict=True):
            self._add("prediction", found.boxes, found.labels, found.scores)
            self._add("target", true.boxes, true.labels, true.area, true.is_crowd)

    def compute(self) -> dict[str, Tensor]:
        """Return the twelve metrics by name, each a float32 scalar in [0, 1] or NaN."""
        matches = self._matches()
        figures = matches.figures(np.arange(matches.num_images)[None])
        return {name: torch.tensor(value.item(), device=self.device) for name, value in figures.items()}

    def resampled(self, draws: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Return the twelve metrics on resamples of the images, (B,) each.

        Args:
            draws: Image indices (B, M) in the order of the updates.
        """
        return self._matches().figures(draws)

    def _matches(self) -> COCOMatches:
        """Compute the matches of all images."""
        predictions, targets = self._images("prediction", 6), self._images("target", 7)
        return COCOMatches([_xywh(rows) for rows in predictions], [_xywh(rows) for rows in targets])

    def _add(self, which: str, boxes: Tensor, *columns: Tensor) -> None:
        rows = torch.cat([boxes.reshape(-1, 4), *(c.reshape(-1, 1) for c in columns)], dim=1)
        rows = rows.detach().to(self.device, torch.float32)
        getattr(self, f"{which}_rows").append(rows.flatten())
        getattr(self, f"{which}_counts").append(torch.tensor([float(len(rows))], device=self.device))

    def _images(self, which: str, width: int) -> list[Tensor]:
        """Restore the rows of each image, on the CPU."""
        rows, counts = getattr(self, f"{which}_rows"), getattr(self, f"{which}_counts")
        if isinstance(counts, list) and not counts:
            return []
        sizes = dim_zero_cat(counts).long().tolist()
        return list(torch.split(dim_zero_cat(rows).cpu().view(-1, width), sizes))


def _xywh(rows: Tensor) -> NDArray[np.float64]:
    """Convert corner boxes to left, top, width, height, in float64."""
    values: NDArray[np.float64] = rows.double().numpy()
    values[:, 2:4] -= values[:, :2]
    return values
