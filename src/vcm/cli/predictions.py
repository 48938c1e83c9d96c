"""Write predictions as JSON and draw them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vcm.cli.paths import STREAM_SUFFIX
from vcm.data.reading import IMAGE_SUFFIXES
from vcm.files import printable
from vcm.tasks.drawing import draw_boxes, place_boxes
from vcm.types import ClassScores, Detections

NUM_CLASSES = 5
_CANVAS_COLOUR = "#303030"
_MIN_LETTER, _LETTERS = 10, 45
"""Minimum letter height of a label in pixels, and letter heights per longer image side otherwise."""


def image_ids(streams: Sequence[Path]) -> dict[Path, int | str]:
    """Return a unique image id for each stream.

    The id is the stem of the image's name, as an integer if it is numeric: 139 for 000000000139.jpg.vcm.
    Streams that share a stem get their path relative to the common folder instead, such as "a/photo.jpg";
    if one of these paths equals another stream's stem, all streams get their paths.
    """
    plain = {stream: _stem(stream) for stream in streams}
    counts = Counter(plain.values())
    if len(counts) == len(plain):
        return plain
    whole = {stream: os.path.abspath(stream) for stream in streams}  # noqa: PTH100  links are not followed
    top = os.path.commonpath([str(Path(path).parent) for path in whole.values()])
    paths = {stream: os.path.relpath(path, top) for stream, path in whole.items()}
    named = {
        stream: printable(Path(path.removesuffix(STREAM_SUFFIX)).as_posix()) for stream, path in paths.items()
    }
    mixed = {stream: found if counts[found] == 1 else named[stream] for stream, found in plain.items()}
    return mixed if len(set(mixed.values())) == len(mixed) else dict(named)


def _stem(stream: Path) -> int | str:
    name = Path(stream.name.removesuffix(STREAM_SUFFIX))
    stem = name.stem if name.suffix.lower() in IMAGE_SUFFIXES else name.name
    return int(stem) if stem.isascii() and stem.isdigit() else printable(stem)


def coco_results(found: Detections, image_id: int | str, ids: Sequence[int]) -> list[dict[str, object]]:
    """Convert detections to the COCO results format, highest score first.

    Args:
        found: Detections in one image.
        image_id: Id of the image.
        ids: COCO category id of each of the task's categories.
    """
    results: list[dict[str, object]] = []
    for box, score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    ):
        x1, y1, x2, y2 = box
        bbox = [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)]
        results.append(
            {"image_id": image_id, "category_id": ids[label], "bbox": bbox, "score": round(score, 6)}
        )
    return results


def best_classes(scores: ClassScores, categories: Sequence[str]) -> list[dict[str, object]]:
    """Return the names and probabilities of the (at most five) most likely classes."""
    best = scores.logits.float().softmax(0).topk(min(NUM_CLASSES, len(categories)))
    return [
        {"name": categories[index], "probability": round(probability, 6)}
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def empty_canvas(size: tuple[int, int]) -> Image.Image:
    """Return a uniform image of this (height, width)."""
    return Image.new("RGB", (size[1], size[0]), _CANVAS_COLOUR)


def draw(image: Image.Image, found: Detections, categories: Sequence[str], *, min_score: float) -> None:
    """Draw every box with at least this score into an image, in place."""
    letter = max(_MIN_LETTER, max(image.size) / _LETTERS)
    size = (image.height, image.width)
    boxes, _ = place_boxes(
        found, categories, {}, min_score=min_score, size=size, letter=letter, max_boxes=len(found.scores)
    )
    draw_boxes(image, boxes, letter)
