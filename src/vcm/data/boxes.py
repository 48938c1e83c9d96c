"""Boxes as annotation files have them, checked against their picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vcm.types import BoxTarget

OVERHANG = 1.0
"""Pixels that a box may stick out of its picture by rounding; what sticks out farther is clipped and told."""


class BoxReader:
    """Turns annotations (COCO's `bbox`, `category_id`, `area`, `iscrowd`) into `BoxTarget`s and notes what
    is wrong.
    """

    def __init__(self, categories: Mapping[int, int]) -> None:
        """Take the mapping from the file's category ids to 0-based labels."""
        self.categories = categories
        self.problems: list[str] = []

    def read(
        self, annotations: Sequence[Mapping[str, Any]], size: tuple[int, int], *, where: str
    ) -> BoxTarget:
        """The target of one picture.

        A box farther than a pixel outside the picture is clipped; one that is empty, wholly outside, not
        made of four finite numbers, or of an unknown category is left out. Both are noted in `problems`.

        Args:
            annotations: The picture's annotations; `bbox` is x, y, width, height in pixels.
            size: The picture's (height, width) in pixels.
            where: The picture's name, for `problems`.
        """
        height, width = size
        boxes: list[tuple[float, float, float, float]] = []
        labels: list[int] = []
        crowds: list[bool] = []
        areas: list[float] = []
        for annotation in annotations:
            try:
                x, y, w, h = (float(value) for value in annotation["bbox"])
                category = int(annotation["category_id"])
                area = float(annotation.get("area", w * h))
                crowd = bool(annotation.get("iscrowd", 0))
            except (KeyError, TypeError, ValueError) as error:
                self.problems.append(f"{where}: annotation left out: {type(error).__name__} {error}")
                continue
            box = f"box x={x:g} y={y:g} w={w:g} h={h:g}"
            if category not in self.categories:
                self.problems.append(f"{where}: {box} left out: there is no category {category}")
            elif not (w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0):
                self.problems.append(
                    f"{where}: {box} left out: empty, or outside the {width}×{height} picture"
                )
            else:
                x1, y1, x2, y2 = x, y, x + w, y + h
                if min(x1, y1, width - x2, height - y2) < -OVERHANG:
                    self.problems.append(f"{where}: {box} clipped to the {width}×{height} picture")
                    x1, y1, x2, y2 = max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)
                    area = min(area, (x2 - x1) * (y2 - y1))
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
