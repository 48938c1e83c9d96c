"""Example images of the report: every codec at about the same rate, with the task's predictions."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from vcm.evaluation.folders import path_inside
from vcm.evaluation.report.sources import Source
from vcm.evaluation.report.versions import Version, at_one_rate, read_versions
from vcm.evaluation.results import Results
from vcm.files import MAX_IMAGE_BYTES, open_regular
from vcm.tasks.drawing import LETTER_PX, Box, Count, place_boxes
from vcm.types import Detections

WEBP_QUALITY = 90
MAX_SIDE = 1280
"""Longest side of an embedded image, in pixels; WebP itself takes no more than 16,383."""
MAX_EXAMPLES = 12
"""Most example images that a report shows."""
LANDSCAPE_PX, PORTRAIT_PX = 360, 210
"""Width on the screen that a view is laid out for, in pixels."""


@dataclass(frozen=True)
class View:
    """One version of an example image.

    Attributes:
        title: Display title of the codec.
        caption: Quality, bytes, rate and whether an image is sent; empty for the original.
        width: Width in pixels.
        height: Height in pixels.
        data: The image as a data URL.
        letter: Font size of labels, in pixels of the image.
        boxes: Detections of the task; empty for classifiers.
        counts: Number of boxes of each category; empty for classifiers.
        answer: Prediction of a classifier; empty for detectors.
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
        """Whether the image is shown in a narrow column."""
        return self.height > 1.1 * self.width


@dataclass(frozen=True)
class Example:
    """One example image at about one rate.

    Attributes:
        views: The original, then one version per codec at about the same rate.
        num_bytes: Rate as a stream length in bytes.
        left_out: Titles of the codecs without such a version.
    """

    views: list[View]
    num_bytes: int
    left_out: list[str]


def example_views(sources: Sequence[Source], results: Results) -> tuple[list[Example], list[str]]:
    """Return each example image with every codec at about the same rate, and notes on omissions.

    For each image, the rate is that of the stream that most codecs match within 15 %. Each codec is shown at
    its stream nearest to that rate.

    Args:
        sources: Runs that `results` were merged from.
        results: Merged results that the report shows.
    """
    every: dict[str, list[Version]] = {}
    notes: list[str] = []
    for source in sources:
        for image_id, versions in read_versions(source, results, notes).items():
            every.setdefault(image_id, []).extend(versions)
    if len(every) > MAX_EXAMPLES:
        notes.append(f"the report shows the first {MAX_EXAMPLES} of {len(every)} example images")
    titles = {point.system: point.title for point in results.points}
    colours: dict[str, str] = {}
    examples = []
    for versions in list(every.values())[:MAX_EXAMPLES]:
        originals = [version for version in versions if not version.system]
        streams = {system: [v for v in versions if v.system == system] for system in titles}
        chosen, without, target = at_one_rate({system: own for system, own in streams.items() if own})
        shown = [_view(version, results, titles, colours) for version in (*originals[:1], *chosen)]
        views = [view for view in shown if view is not None]
        if views:
            examples.append(Example(views, target, [titles[system] for system in without]))
    return examples, notes


def _view(version: Version, results: Results, titles: dict[str, str], colours: dict[str, str]) -> View | None:
    """Build the view of one version; None if its image is gone."""
    data = _data_url(version.folder, version.image)
    if data is None:
        return None
    height, width = version.size
    letter = LETTER_PX * width / (PORTRAIT_PX if height > 1.1 * width else LANDSCAPE_PX)
    boxes: list[Box] = []
    counts: list[Count] = []
    answer = ""
    if isinstance(version.prediction, Detections):
        boxes, counts = place_boxes(
            version.prediction,
            results.categories,
            colours,
            min_score=results.pseudo_score,
            size=version.size,
            letter=letter,
        )
    else:
        answer = _answer(version.prediction.logits, results)
    caption = ""
    if version.system:
        between = " (between its points)" if version.is_between else ""
        bpp = 8 * version.num_bytes / (height * width)
        caption = f"quality {version.quality:g}{between} · {version.num_bytes:,} bytes · {bpp:.3f} bpp"
        caption += "" if version.sends_image else " · sends no image; over the original"
    title = titles.get(version.system, "original")
    return View(title, caption, width, height, data, letter, boxes, counts, answer)


def _answer(logits: torch.Tensor, results: Results) -> str:
    probability, label = logits.softmax(0).max(0)
    return f"{results.categories[int(label)]} {float(probability):.2f}"


def _data_url(folder: Path, name: str) -> str | None:
    """Return the image as a data URL; None if it is missing, damaged or outside the run's folder."""
    buffer = io.BytesIO()
    try:
        with (
            warnings.catch_warnings(),
            open_regular(path_inside(folder, name), limit=MAX_IMAGE_BYTES) as file,
        ):
            warnings.simplefilter("ignore")
            with Image.open(file, formats=("PNG",)) as image:
                image.thumbnail((MAX_SIDE, MAX_SIDE))
                image.save(buffer, "WEBP", quality=WEBP_QUALITY)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
