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

from vcm.evaluation.boxes import LETTER_PX, Box, Count, place_boxes
from vcm.evaluation.examples import EXAMPLES_JSON, ORIGINALS
from vcm.evaluation.names import point_name
from vcm.evaluation.points import Point
from vcm.evaluation.records import prediction_from_json
from vcm.evaluation.results import Results
from vcm.types import Detections

WEBP_QUALITY = 90
MAX_SIDE = 1280
"""Longest side of an embedded picture, in pixels; WebP itself takes no more than 16,383."""
LANDSCAPE_PX, PORTRAIT_PX = 360, 210
"""Width on the screen that a view is laid out for, in pixels."""


@dataclass(frozen=True)
class View:
    """One version of an example picture.

    Attributes:
        title: Which system made it.
        caption: Its quality, bytes and rate, and whether it sends a picture; empty for the original.
        width: In pixels.
        height: In pixels.
        data: The picture as a data URL.
        letter: Height of a label's letters, in pixels of the picture.
        boxes: What the task finds in it; empty for classifiers.
        counts: How many boxes of each category; empty for classifiers.
        answer: What a classifier says; empty for detectors.
    """

    title: str
    caption: str
    width: int
    height: int
    data: str
    letter: float
    boxes: list[Box]
    counts: list[Count]
    answer: str

    @property
    def is_portrait(self) -> bool:
        """Whether it is shown in a narrow column."""
        return self.height > 1.1 * self.width


def example_views(folders: Sequence[Path], results: Results) -> list[list[View]]:
    """For each example the original, then every system at its point nearest to `matched_rate`.

    Args:
        folders: Of the evaluations that `results` were merged from.
        results: What they measured.
    """
    points = [point for point in results.points if point.labels == results.points[0].labels]
    shown = {point_name(point.system, point.quality): point for point in matched_points(points)}
    every: dict[str, dict[str, View]] = {}
    colours: dict[str, str] = {}
    for folder in folders:
        for image_id, versions in _read_examples(folder).items():
            views = every.setdefault(image_id, {})
            for name in (ORIGINALS, *shown):
                if name in versions and name not in views:
                    point = shown.get(name)
                    sends_picture = point is None or point.psnr is not None
                    picture = folder / versions[name if sends_picture else ORIGINALS]["picture"]
                    view = _view(picture, versions[name], point, results, colours)
                    views.update({name: view} if view else {})
    return [list(views.values()) for views in every.values() if views]


def matched_rate(points: Sequence[Point]) -> float:
    """The lowest rate that all systems reach, in bits per pixel."""
    systems = {point.system for point in points}
    return max(min(point.bpp for point in points if point.system == system) for system in systems)


def matched_points(points: Sequence[Point]) -> list[Point]:
    """For each system its operating point nearest to `matched_rate`."""
    target = matched_rate(points)
    chosen = []
    for system in dict.fromkeys(point.system for point in points):
        own = [point for point in points if point.system == system]
        chosen.append(min(own, key=lambda point: abs(math.log(point.bpp / target))))
    return chosen


def _read_examples(folder: Path) -> dict[str, dict[str, Any]]:
    """What `write_examples` wrote; nothing where that is missing or damaged."""
    try:
        content = json.loads((folder / EXAMPLES_JSON).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _view(
    picture: Path, version: dict[str, Any], point: Point | None, results: Results, colours: dict[str, str]
) -> View | None:
    """One version as it is shown, over `picture`; None where that is no longer there."""
    data = _data_url(picture)
    if data is None:
        return None
    height, width = version["height"], version["width"]
    prediction = prediction_from_json(version["prediction"])
    letter = LETTER_PX * width / (PORTRAIT_PX if height > 1.1 * width else LANDSCAPE_PX)
    boxes: list[Box] = []
    counts: list[Count] = []
    answer = ""
    if isinstance(prediction, Detections):
        boxes, counts = place_boxes(
            prediction,
            results.categories,
            colours,
            min_score=results.pseudo_score,
            size=(height, width),
            letter=letter,
        )
    else:
        answer = _answer(prediction.logits, results)
    caption = ""
    if point is not None:
        bpp = 8 * version["num_bytes"] / (height * width)
        caption = f"quality {point.quality:g} · {version['num_bytes']:,} bytes · {bpp:.3f} bpp"
        caption += "" if point.psnr is not None else " · sends no picture; over the original"
    title = point.title if point else "original"
    return View(title, caption, width, height, data, letter, boxes, counts, answer)


def _answer(logits: torch.Tensor, results: Results) -> str:
    probability, label = logits.softmax(0).max(0)
    return f"{results.categories[int(label)]} {float(probability):.2f}"


def _data_url(path: Path) -> str | None:
    buffer = io.BytesIO()
    try:
        with Image.open(path) as image:
            image.thumbnail((MAX_SIDE, MAX_SIDE))
            image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    except (OSError, SyntaxError, ValueError):  # removed or damaged since
        return None
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
