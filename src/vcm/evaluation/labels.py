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
    """Targets of one kind, in the task's categories.

    Attributes:
        kind: Where they come from.
        targets: By image id; images that have none are not there.
        categories: Indices of the task's categories that these labels speak of; None for all.
        note: What a reader of the results should know; empty where there is nothing.
    """

    kind: LabelKind
    targets: dict[str, Target]
    categories: frozenset[int] | None = None
    note: str = ""

    def relevant(self, prediction: Prediction) -> Prediction:
        """The prediction without the categories that these labels do not speak of."""
        if self.categories is None or not isinstance(prediction, Detections):
            return prediction
        known = torch.tensor(sorted(self.categories), dtype=torch.int64)
        kept = torch.isin(prediction.labels, known)
        return Detections(prediction.boxes[kept], prediction.scores[kept], prediction.labels[kept])


def true_labels(
    targets: Mapping[str, Target], data_categories: Sequence[str], task_categories: Sequence[str]
) -> LabelSet:
    """A data set's own labels, put into the task's categories by name.

    Categories that the task does not have are left out, and so are the task's that the data set does not
    have.

    Raises:
        EvaluationError: If the two have no category in common.
    """
    mapping = match_categories(data_categories, task_categories)
    shared = frozenset(index for index in mapping if index >= 0)
    if not shared:
        raise EvaluationError(
            f"the data set's categories ({_some(data_categories)}) and the task's ({_some(task_categories)}) "
            "have no name in common; evaluate with labels=[pseudo], or give the data set the task's names."
        )
    note = ""
    if len(shared) < max(len(data_categories), len(task_categories)):
        note = (
            f"{len(shared)} categories are shared by the data set ({len(data_categories)}) and the task "
            f"({len(task_categories)}); the others are left out"
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
    """The task's own predictions on the originals, as targets (Fischer et al., arXiv 2205.06519).

    Args:
        predictions: On the original images, by image id.
        min_score: Boxes below this score are not taken as objects, in [0, 1].

    Raises:
        ArgumentError: If `min_score` is not in [0, 1].
    """
    check_between("pseudo_score", min_score, 0, 1)
    return LabelSet("pseudo", {image_id: pseudo_target(p, min_score) for image_id, p in predictions.items()})


def check_label_kinds(kinds: Iterable[str]) -> None:
    """Raise ArgumentError unless every kind is "truth" or "pseudo", once, and there is one."""
    listed = list(kinds)
    if not listed or len(set(listed)) != len(listed) or not set(listed) <= set(LABEL_KINDS):
        raise ArgumentError("labels", expected="a list of truth, pseudo or both, each once", got=listed)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
