"""COCO's average precision and recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from vcm.errors import ArgumentError
from vcm.metrics.coco import COCOMatches
from vcm.types import BoxTarget, Detections


class DetectionAccuracy(Metric):
    """COCO's twelve figures for boxes, as pycocotools computes them; `map` averages IoU 0.50:0.05:0.95.

    Lin et al., "Microsoft COCO", arXiv 1405.0312. Labels of predictions and targets have to be indices into
    one list of categories. Crowd regions neither hit nor miss; the true boxes' `area` decides between small,
    medium and large. A figure that is not defined, such as `map_small` without any small true box, is NaN
    (pycocotools says −1).

    Its state is one-dimensional float32 tensors to be concatenated, so that processes may have seen different
    numbers of images, or none.
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

    def update(self, predictions: Sequence[Detections], targets: Sequence[BoxTarget]) -> None:
        """Add images.

        Args:
            predictions: One an image.
            targets: One an image.

        Raises:
            ArgumentError: If there are not as many predictions as targets.
        """
        if len(predictions) != len(targets):
            raise ArgumentError(
                "predictions", expected=f"one a target, {len(targets)} in all", got=len(predictions)
            )
        for found, true in zip(predictions, targets, strict=True):
            self._add("prediction", found.boxes, found.labels, found.scores)
            self._add("target", true.boxes, true.labels, true.area, true.is_crowd)

    def compute(self) -> dict[str, Tensor]:
        """The twelve figures by name, each a float32 scalar in [0, 1] or NaN."""
        matches = self._matches()
        figures = matches.figures(np.arange(matches.num_images)[None])
        return {name: torch.tensor(value.item(), device=self.device) for name, value in figures.items()}

    def resampled(self, draws: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """The twelve figures on resamples of the images, (B,) each.

        Args:
            draws: (B, M) indices of the images drawn, in the order in which they were added.
        """
        return self._matches().figures(draws)

    def _matches(self) -> COCOMatches:
        """What matches in all images, once."""
        predictions, targets = self._images("prediction", 6), self._images("target", 7)
        return COCOMatches([_xywh(rows) for rows in predictions], [_xywh(rows) for rows in targets])

    def _add(self, which: str, boxes: Tensor, *columns: Tensor) -> None:
        rows = torch.cat([boxes.reshape(-1, 4), *(c.reshape(-1, 1) for c in columns)], dim=1)
        rows = rows.detach().to(self.device, torch.float32)
        getattr(self, f"{which}_rows").append(rows.flatten())
        getattr(self, f"{which}_counts").append(torch.tensor([float(len(rows))], device=self.device))

    def _images(self, which: str, width: int) -> list[Tensor]:
        """Each image's rows again, on the CPU."""
        rows, counts = getattr(self, f"{which}_rows"), getattr(self, f"{which}_counts")
        if isinstance(counts, list) and not counts:
            return []
        sizes = dim_zero_cat(counts).long().tolist()
        return list(torch.split(dim_zero_cat(rows).cpu().view(-1, width), sizes))


def _xywh(rows: Tensor) -> NDArray[np.float64]:
    """The same rows with left, top, width, height; the differences taken in float64."""
    values: NDArray[np.float64] = rows.double().numpy()
    values[:, 2:4] -= values[:, :2]
    return values
