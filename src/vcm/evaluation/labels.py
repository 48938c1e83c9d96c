"""Evaluation targets: ground truth or pseudo-labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from vcm.categories import match_categories
from vcm.errors import ArgumentError, EvaluationError
from vcm.tasks.base import pseudo_target
from vcm.types import BoxTarget, Detections, Prediction, Target
from vcm.validation import check_between

LabelKind = Literal["truth", "pseudo"]
LABEL_KINDS: tuple[LabelKind, ...] = ("truth", "pseudo")


@dataclass(frozen=True, eq=False)
class LabelSet:
    """Evaluation targets of one kind, in the task's categories.

    Attributes:
        kind: "truth" or "pseudo".
        targets: Targets by image id; images without labels are missing.
        categories: Indices of the task's categories that the labels cover; None for all.
        note: Note for readers of the results; empty if there is none.
    """

    kind: LabelKind
    targets: dict[str, Target]
    categories: frozenset[int] | None = None
    note: str = ""

    def relevant(self, prediction: Prediction) -> Prediction:
        """Remove predictions of categories that the labels do not cover."""
        if self.categories is None or not isinstance(prediction, Detections):
            return prediction
        known = torch.tensor(sorted(self.categories), dtype=torch.int64)
        kept = torch.isin(prediction.labels, known)
        return Detections(prediction.boxes[kept], prediction.scores[kept], prediction.labels[kept])


def true_labels(
    targets: Mapping[str, Target], data_categories: Sequence[str], task_categories: Sequence[str]
) -> LabelSet:
    """Map a dataset's labels to the task's categories by name.

    Categories that only the dataset or only the task has are ignored.

    Raises:
        EvaluationError: If the dataset and the task have no category in common.
    """
    mapping = match_categories(data_categories, task_categories)
    shared = frozenset(index for index in mapping if index >= 0)
    if not shared:
        raise EvaluationError(
            f"The dataset's categories ({_some(data_categories)}) and the task's ({_some(task_categories)}) "
            "have no name in common. Use labels=[pseudo], or rename the dataset's categories."
        )
    note = ""
    if len(shared) < max(len(data_categories), len(task_categories)):
        note = (
            f"{len(shared)} categories are shared by the dataset ({len(data_categories)}) and the task "
            f"({len(task_categories)}); the others are ignored"
        )
    table = torch.tensor(mapping, dtype=torch.int64)
    moved: dict[str, Target] = {}
    for image_id, target in targets.items():
        if isinstance(target, BoxTarget):
            labels = table[target.labels]
            kept = labels >= 0
            moved[image_id] = BoxTarget(
                target.boxes[kept], labels[kept], target.is_crowd[kept], target.area[kept]
            )
        elif mapping[target.label] >= 0:
            moved[image_id] = replace(target, label=mapping[target.label])
    return LabelSet("truth", moved, shared, note)


def pseudo_labels(predictions: Mapping[str, Prediction], min_score: float) -> LabelSet:
    """Turn the task's predictions on the original images into targets (Fischer et al., arXiv 2205.06519).

    Args:
        predictions: Predictions on the original images, by image id.
        min_score: Lowest score of a detection that becomes a target, in [0, 1].

    Raises:
        ArgumentError: If `min_score` is not in [0, 1].
    """
    check_between("pseudo_score", min_score, 0, 1)
    return LabelSet("pseudo", {image_id: pseudo_target(p, min_score) for image_id, p in predictions.items()})


def check_label_kinds(kinds: Iterable[str]) -> None:
    """Raise ArgumentError unless the kinds are a nonempty list of "truth" and "pseudo" without duplicates."""
    listed = list(kinds)
    if not listed or len(set(listed)) != len(listed) or not set(listed) <= set(LABEL_KINDS):
        raise ArgumentError("labels", expected="a list of truth, pseudo, or both", got=listed)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
