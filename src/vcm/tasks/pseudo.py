"""Pseudo-labels from predictions."""

from __future__ import annotations

import torch

from vcm.types import BoxTarget, ClassScores, ClassTarget, Prediction, Target


def pseudo_target(prediction: Prediction, min_score: float) -> Target:
    """Convert a task's prediction on an original image to a target (Fischer et al., arXiv 2205.06519).

    Args:
        prediction: Prediction on one original image.
        min_score: Lowest score of a detection that becomes an object, in [0, 1].
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
