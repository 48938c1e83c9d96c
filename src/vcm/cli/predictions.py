"""Predictions as JSON and as drawings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vcm.cli.files import STREAM_SUFFIX
from vcm.data.reading import IMAGE_SUFFIXES
from vcm.evaluation.boxes import draw_boxes, place_boxes
from vcm.files import printable
from vcm.types import ClassScores, Detections

NUM_CLASSES = 5
_CANVAS_COLOUR = "#303030"
_MIN_LETTER, _LETTERS = 10, 45
"""Height of a label's letters in pixels, at least; how many letters high the longer side is, else."""


def image_ids(streams: Sequence[Path]) -> dict[Path, int | str]:
    """An id for the image of each stream, which no other has.

    It is the stem of the image's name, as a whole number where it is one: 000000000139.jpg.vcm is 139. Where
    several streams share it, each has its path below the folder that holds all of them: "a/photo.jpg"; all
    streams have, where one of those paths is another's stem.
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
    """Detections in COCO's results form, best first.

    Args:
        found: In one image.
        image_id: The image's.
        ids: For each of the task's categories its number in COCO's form.
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
    """Names and probabilities of the classes that a classifier finds most likely."""
    best = scores.logits.float().softmax(0).topk(min(NUM_CLASSES, len(categories)))
    return [
        {"name": categories[index], "probability": round(probability, 6)}
        for probability, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def empty_canvas(size: tuple[int, int]) -> Image.Image:
    """A plain image of this (height, width)."""
    return Image.new("RGB", (size[1], size[0]), _CANVAS_COLOUR)


def draw(image: Image.Image, found: Detections, categories: Sequence[str], *, min_score: float) -> None:
    """Draw every box of at least this score into an image."""
    letter = max(_MIN_LETTER, max(image.size) / _LETTERS)
    size = (image.height, image.width)
    boxes, _ = place_boxes(
        found, categories, {}, min_score=min_score, size=size, letter=letter, max_boxes=len(found.scores)
    )
    draw_boxes(image, boxes, letter)
