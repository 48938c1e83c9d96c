"""COCO average precision and recall on resamples, from matches that are computed once."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DETECTION_ACCURACIES = (
    "map", "map_50", "map_75", "map_small", "map_medium", "map_large",
    "mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large",
)  # fmt: skip
"""Names of COCO's twelve summary metrics, in its order."""

Rows = NDArray[np.float64]

_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_AREAS = ("all", "small", "medium", "large")
_CHUNK = 2**23
"""Maximum number of elements in an array of draws × detections."""


@dataclass(frozen=True, eq=False)
class _Group:
    """One category in one range of areas: its D detections by descending score, at T IoU thresholds.

    Attributes:
        area: Name of the range of areas.
        image: (D,) image index of each detection.
        place: (D,) rank of each detection in its image, from 0.
        hits: (T, D) whether the detection matches a ground-truth box that counts.
        counts: (T, D) whether the detection is a hit or a miss; others are ignored.
        real: (N,) number of ground-truth boxes that count, per image.
    """

    area: str
    image: NDArray[np.int64]
    place: NDArray[np.int64]
    hits: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    real: NDArray[np.int64]


class COCOMatches:
    """Matches between detections and ground-truth boxes, as computed by pycocotools.

    An image's matches do not depend on other images. The metrics of any resample therefore follow from how
    often each image was drawn, as if the dataset contained that many copies of it.
    """

    def __init__(self, found: Sequence[Rows], true: Sequence[Rows]) -> None:
        """Compute the matches.

        Args:
            found: Detections of each of N images, (D, 6): left, top, width, height, category, score.
            true: Ground truth of each of N images, (G, 7): left, top, width, height, category, area, crowd
                flag.
        """
        self.num_images = len(true)
        self._groups = list(_groups(found, true))

    def figures(self, draws: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Compute COCO's twelve metrics on each resample: (B,) each, in [0, 1], or NaN where undefined.

        Args:
            draws: Image indices (B, M).
        """
        largest = max((len(group.image) for group in self._groups), default=0)
        size = max(_CHUNK // max(largest, self.num_images, 1), 1)
        parts = [self._figures(draws[start : start + size]) for start in range(0, len(draws), size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in DETECTION_ACCURACIES}

    def _figures(self, draws: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        times = np.stack([np.bincount(row, minlength=self.num_images) for row in draws])
        # Stands for a category without ground truth, so that there is always an array to concatenate.
        none = np.full((len(draws), len(_IOU_THRESHOLDS)), np.nan)
        values = {figure: [none] for figure in DETECTION_ACCURACIES}
        for group in self._groups:
            precision, recall = _precision_and_recall(group, times)
            if group.area != "all":
                values[f"map_{group.area}"].append(precision)
                values[f"mar_{group.area}"].append(recall)
                continue
            values["map"].append(precision)
            values["map_50"].append(precision[:, :1])
            values["map_75"].append(precision[:, 5:6])
            values["mar_1"].append(_recall_of_best(group, times, 1))
            values["mar_10"].append(_recall_of_best(group, times, 10))
            values["mar_100"].append(recall)
        return {name: _mean(of_categories) for name, of_categories in values.items()}


def _mean(of_categories: Sequence[NDArray[np.float64]]) -> NDArray[np.float32]:
    """Return the mean over categories and thresholds of (B, T) arrays; NaN if a draw has no ground truth."""
    values = np.concatenate(of_categories, axis=1)
    count = (~np.isnan(values)).sum(axis=1)
    mean = np.nansum(values, axis=1) / np.maximum(count, 1)
    return np.where(count > 0, mean, np.nan).astype(np.float32)


def _precision_and_recall(
    group: _Group, times: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision averaged over 101 recalls, and recall: (B, T) each, NaN if a draw has no ground truth.

    Precision is evaluated only after hits, because it falls between two of them while recall stays. A hit
    that was drawn twice counts as two in a row, of which the second has the higher precision and recall.

    Args:
        group: Group with D detections.
        times: (B, N) number of times that each image was drawn.
    """
    real = _times_real(group, times)
    average, reached = np.zeros((2, len(times), len(group.hits)))
    weights = times[:, group.image]
    seen, counted = weights, None  # from the last threshold with a hit
    for threshold, (hits, counts) in enumerate(zip(group.hits, group.counts, strict=True)):
        where = np.flatnonzero(hits)
        if len(where) == 0:
            continue
        if counted is None or not np.array_equal(counts, counted):  # usually equal at all thresholds
            seen, counted = np.cumsum(weights * counts, axis=1), counts
        found = np.cumsum(weights[:, where], axis=1)
        precision = found / (seen[:, where] + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = found / real[:, None]
        passed = np.searchsorted(_RECALLS, recall, side="right")
        average[:, threshold] = (best * np.diff(passed, axis=1, prepend=0)).sum(axis=1) / len(_RECALLS)
        reached[:, threshold] = recall[:, -1]
    undefined = np.isnan(real)
    average[undefined], reached[undefined] = np.nan, np.nan
    return average, reached


def _recall_of_best(group: _Group, times: NDArray[np.int64], most: int) -> NDArray[np.float64]:
    """Return recall with the best `most` detections per image: (B, T), NaN without ground truth."""
    hits = np.zeros((times.shape[1], len(group.hits)), dtype=np.int64)
    kept = group.place < most
    np.add.at(hits, group.image[kept], group.hits[:, kept].T)
    return (times @ hits) / _times_real(group, times)[:, None]


def _times_real(group: _Group, times: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (B,) the number of ground-truth boxes that count in each draw; NaN instead of 0."""
    real = (times @ group.real).astype(np.float64)
    real[real == 0] = np.nan
    return real


def _groups(found: Sequence[Rows], true: Sequence[Rows]) -> Iterator[_Group]:
    """Yield pycocotools' matches for every category with ground truth and every range of areas."""
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluation = COCOeval(_data_set(true, ("area", "iscrowd")), _data_set(found, ("score",)), "bbox")
        evaluation.params.imgIds = list(range(len(true)))
        evaluation.params.iouThrs = _IOU_THRESHOLDS
        evaluation.evaluate()
    matched = iter(evaluation.evalImgs)
    for _ in evaluation.params.catIds:
        for area in _AREAS:
            of_images = {i: m for i in range(len(true)) if (m := next(matched)) is not None}
            real = np.zeros(len(true), dtype=np.int64)
            for index, match in of_images.items():
                real[index] = np.count_nonzero(match["gtIgnore"] == 0)
            if real.any():
                yield _group(area, of_images, real)


def _group(area: str, of_images: dict[int, dict[str, Any]], real: NDArray[np.int64]) -> _Group:
    matches = list(of_images.values())
    sizes = [len(match["dtScores"]) for match in matches]
    matched = np.concatenate([match["dtMatches"] for match in matches], axis=1) > 0
    ignored = np.concatenate([match["dtIgnore"] for match in matches], axis=1).astype(bool)
    scores = np.concatenate([match["dtScores"] for match in matches])
    order = np.argsort(-scores, kind="stable")
    return _Group(
        area=area,
        image=np.repeat(list(of_images), sizes)[order].astype(np.int64),
        place=np.concatenate([np.arange(size) for size in sizes])[order],
        hits=(matched & ~ignored)[:, order],
        counts=~ignored[:, order],
        real=real,
    )


def _data_set(images: Sequence[Rows], columns: Sequence[str]) -> Any:  # noqa: ANN401  pycocotools' COCO
    """Convert boxes to a pycocotools dataset; `columns` names the columns after box and category."""
    from pycocotools.coco import COCO

    annotations: list[dict[str, Any]] = []
    for image_id, rows in enumerate(images):
        for left, top, width, height, category, *others in rows.tolist():
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": int(category)}
            box = {"bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}
            annotations.append({**annotation, **box, **dict(zip(columns, others, strict=True))})
    data = COCO()
    data.dataset = {
        "images": [{"id": image_id} for image_id in range(len(images))],
        "annotations": annotations,
        "categories": [{"id": i} for i in sorted({a["category_id"] for a in annotations})],
    }
    data.createIndex()
    return data
