"""Read and validate annotated boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vcm.data.sizes import OVERHANG, Placement
from vcm.types import BoxTarget


class BoxReader:
    """Converts annotations (COCO's `bbox`, `category_id`, `area`, `iscrowd`) to `BoxTarget`s and collects
    problems.
    """

    def __init__(self, categories: Mapping[int, int]) -> None:
        """Set the mapping from the file's category ids to 0-based labels."""
        self.categories = categories
        self.problems: list[str] = []

    def read(
        self, annotations: Sequence[Mapping[str, Any]], placement: Placement, *, where: str
    ) -> BoxTarget:
        """Return the target of one image.

        A box that exceeds the image by more than a pixel is clipped. A box that is empty, entirely outside,
        not made of four finite numbers, or of an unknown category is skipped. Both are reported in
        `problems`. An area that is missing, negative or not finite is replaced by the box's area.

        Args:
            annotations: Annotations of the image; `bbox` is x, y, width, height in annotated pixels.
            placement: Size of the image, and transformation of its boxes; its note is added to `problems`.
            where: Name of the image in `problems`.
        """
        height, width = placement.size
        if placement.note:
            self.problems.append(f"{where}: {placement.note}")
        boxes: list[tuple[float, float, float, float]] = []
        labels: list[int] = []
        crowds: list[bool] = []
        areas: list[float] = []
        for annotation in annotations:
            try:
                x, y, w, h = (_finite(value) for value in annotation["bbox"])
                category = whole_number(annotation["category_id"])
                stated = annotation.get("area")
                area = w * h if stated is None else float(stated)
                crowd = bool(int(annotation.get("iscrowd") or 0))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                self.problems.append(f"{where}: annotation skipped: {type(error).__name__} {error}")
                continue
            box = f"box x={x:g} y={y:g} w={w:g} h={h:g}"
            x1, y1, x2, y2 = placement((x, y, x + w, y + h))
            area *= placement.area_scale
            if category not in self.categories:
                self.problems.append(f"{where}: {box} skipped: there is no category {category}")
            elif not (w > 0 and h > 0 and x1 < width and y1 < height and x2 > 0 and y2 > 0):
                self.problems.append(f"{where}: {box} skipped: empty, or outside the {width}×{height} image")
            else:
                if min(x1, y1, width - x2, height - y2) < -OVERHANG:
                    self.problems.append(f"{where}: {box} clipped to the {width}×{height} image")
                    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
                    area = min(area, (x2 - x1) * (y2 - y1))
                if not 0 <= area < math.inf:
                    area = (x2 - x1) * (y2 - y1)
                boxes.append((x1, y1, x2, y2))
                labels.append(self.categories[category])
                crowds.append(crowd)
                areas.append(area)
        return BoxTarget(
            boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(labels, dtype=torch.int64),
            is_crowd=torch.tensor(crowds, dtype=torch.bool),
            area=torch.tensor(areas, dtype=torch.float32),
        )


def whole_number(value: Any) -> int:  # noqa: ANN401  any JSON value
    """Convert a whole number, or its text, to an int.

    Raises:
        ValueError: If it is something else.
        OverflowError: If it is infinite.
    """
    number = int(value)
    if not isinstance(value, str) and number != value:
        raise ValueError(f"{value!r} is not a whole number")
    return number


def _finite(value: Any) -> float:  # noqa: ANN401  any JSON value
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number
