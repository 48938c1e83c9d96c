"""Example pictures for the report: every system at about the same rate, with what the task still finds."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vcm.evaluation.examples import EXAMPLES_JSON, ORIGINALS
from vcm.evaluation.names import point_name
from vcm.evaluation.points import Point
from vcm.evaluation.records import prediction_from_json
from vcm.evaluation.results import Results
from vcm.types import Detections

MAX_BOXES = 15
WEBP_QUALITY = 90


@dataclass(frozen=True)
class Box:
    """One detection, in pixels of the picture, and what it is called."""

    x: float
    y: float
    width: float
    height: float
    caption: str


@dataclass(frozen=True)
class View:
    """One version of an example picture.

    Attributes:
        title: Which system made it.
        caption: Its quality, bytes and rate.
        width: In pixels.
        height: In pixels.
        data: The picture as a data URL.
        boxes: What the task finds in it; empty for classifiers.
        answer: What a classifier says; empty for detectors.
    """

    title: str
    caption: str
    width: int
    height: int
    data: str
    boxes: list[Box]
    answer: str


def example_views(folder: Path, image_id: str, results: Results) -> list[View]:
    """The original, then every system at its operating point nearest to one rate that all of them reach.

    Args:
        folder: The evaluation's folder.
        image_id: Which example.
        results: The evaluation's results.
    """
    try:
        versions: dict[str, Any] = json.loads((folder / EXAMPLES_JSON).read_text())[image_id]
    except (OSError, ValueError, KeyError):  # an evaluation that kept no examples
        return []
    kind = results.points[0].labels
    rates = {point_name(p.system, p.quality): p for p in results.points if p.labels == kind}
    chosen = [ORIGINALS, *matched_points(list(rates.values()))]
    views = []
    for name in chosen:
        if name not in versions or not (path := folder / versions[name]["picture"]).is_file():
            continue
        version = versions[name]
        point = rates.get(name)
        bpp = 8 * version["num_bytes"] / (version["height"] * version["width"])
        prediction = prediction_from_json(version["prediction"])
        views.append(
            View(
                title=point.title if point else "original",
                caption=f"quality {point.quality:g}, {version['num_bytes']:,} bytes, {bpp:.3f} bpp"
                if point
                else "",
                width=version["width"],
                height=version["height"],
                data=_data_url(path),
                boxes=_boxes(prediction, results) if isinstance(prediction, Detections) else [],
                answer="" if isinstance(prediction, Detections) else _answer(prediction.logits, results),
            )
        )
    return views


def matched_points(points: Sequence[Point]) -> list[str]:
    """For each system its operating point nearest to the lowest rate that all of them reach."""
    systems = list(dict.fromkeys(point.system for point in points))
    target = max(min(point.bpp for point in points if point.system == system) for system in systems)
    chosen = []
    for system in systems:
        own = [point for point in points if point.system == system]
        nearest = min(own, key=lambda point: abs(math.log(point.bpp / target)))
        chosen.append(point_name(system, nearest.quality))
    return chosen


def _boxes(found: Detections, results: Results) -> list[Box]:
    boxes: list[Box] = []
    for box, score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    ):
        if score >= results.pseudo_score and len(boxes) < MAX_BOXES:
            x1, y1, x2, y2 = box
            boxes.append(Box(x1, y1, x2 - x1, y2 - y1, f"{results.categories[label]} {score:.2f}"))
    return boxes


def _answer(logits: torch.Tensor, results: Results) -> str:
    probability, label = logits.softmax(0).max(0)
    return f"{results.categories[int(label)]} {float(probability):.2f}"


def _data_url(path: Path) -> str:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
