"""COCO's average precision and recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision
from torchmetrics.utilities import dim_zero_cat

from vcm.errors import ArgumentError
from vcm.types import BoxTarget, Detections

DETECTION_ACCURACIES = (
    "map", "map_50", "map_75", "map_small", "map_medium", "map_large",
    "mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large",
)  # fmt: skip
"""COCO's twelve summary figures, in its order."""

_SMALLEST_AREA = 1e-9
_MAX_DETECTIONS = [1, 10, 100]


class DetectionAccuracy(Metric):
    """COCO's twelve figures for boxes, as pycocotools computes them; `map` averages IoU 0.50:0.05:0.95.

    Lin et al., "Microsoft COCO", arXiv 1405.0312. Labels of predictions and targets have to be indices into
    one list of categories. Crowd regions neither hit nor miss; the true boxes' `area` decides between small,
    medium and large. A figure that is not defined, such as `map_small` without any small true box, is NaN
    (pycocotools says −1).

    Its state is one-dimensional float32 tensors to be concatenated, so that processes may have seen different
    numbers of pictures, or none.
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
        """Add pictures.

        Args:
            predictions: One a picture.
            targets: One a picture.

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
        precision = MeanAveragePrecision(
            box_format="xywh",
            # Its own thresholds are float32, which moves pairs that lie on one.
            iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
            rec_thresholds=np.linspace(0, 1, 101).tolist(),
            max_detection_thresholds=_MAX_DETECTIONS,
            backend="pycocotools",
        )
        precision.warn_on_many_detections = False
        predictions, targets = self._pictures("prediction", 6), self._pictures("target", 7)
        if predictions:
            precision.update(
                [{"boxes": _xywh(r), "labels": r[:, 4].long(), "scores": r[:, 5]} for r in predictions],
                [
                    {
                        "boxes": _xywh(r),
                        "labels": r[:, 4].long(),
                        # It takes the box's area where this is 0.
                        "area": r[:, 5].clamp(min=_SMALLEST_AREA),
                        "iscrowd": r[:, 6].long(),
                    }
                    for r in targets
                ],
            )
        figures = precision.compute() if predictions else {}
        undefined = torch.tensor(-1.0)
        values = {name: figures.get(name, undefined).to(self.device) for name in DETECTION_ACCURACIES}
        return {name: value.masked_fill(value < 0, torch.nan) for name, value in values.items()}

    def _add(self, which: str, boxes: Tensor, *columns: Tensor) -> None:
        rows = torch.cat([boxes.reshape(-1, 4), *(c.reshape(-1, 1) for c in columns)], dim=1)
        rows = rows.detach().to(self.device, torch.float32)
        getattr(self, f"{which}_rows").append(rows.flatten())
        getattr(self, f"{which}_counts").append(torch.tensor([float(len(rows))], device=self.device))

    def _pictures(self, which: str, width: int) -> list[Tensor]:
        """Each picture's rows again, on the CPU."""
        rows, counts = getattr(self, f"{which}_rows"), getattr(self, f"{which}_counts")
        if isinstance(counts, list) and not counts:
            return []
        sizes = dim_zero_cat(counts).long().tolist()
        return list(torch.split(dim_zero_cat(rows).cpu().view(-1, width), sizes))


def _xywh(rows: Tensor) -> Tensor:
    """Left, top, width, height, the differences taken in float64."""
    boxes = rows[:, :4].double()
    return torch.cat((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), dim=1)
