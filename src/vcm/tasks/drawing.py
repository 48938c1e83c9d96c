"""Draw detections with labels that do not overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from vcm.types import Detections

MAX_BOXES = 20
"""Maximum number of boxes drawn in a small image."""
COLOURS = ("#ffd400", "#4fe3ff", "#ff7ad9", "#8dff6b", "#ffa24d", "#c3b1ff", "#ffffff", "#ff7272")
LETTER_PX = 11.0
"""Letter height of a label on the screen, in pixels."""
_LETTER_WIDTH, _LABEL_HEIGHT = 0.62, 1.35  # in multiples of the letter height
_HALO, _INK = "#000000", "#111111"

Area = tuple[float, float, float, float]
"""x, y, width and height in image pixels."""


@dataclass(frozen=True)
class Box:
    """One detection to draw, in image pixels.

    Attributes:
        area: The box.
        caption: Category and score.
        colour: Colour of the category.
        label: Area of the caption; None if there is no room for it.
    """

    area: Area
    caption: str
    colour: str
    label: Area | None


@dataclass(frozen=True)
class Count:
    """Number of drawn boxes of one category."""

    category: str
    colour: str
    count: int


def place_boxes(
    found: Detections,
    categories: Sequence[str],
    colours: dict[str, str],
    *,
    min_score: float,
    size: tuple[int, int],
    letter: float,
    max_boxes: int = MAX_BOXES,
) -> tuple[list[Box], list[Count]]:
    """Choose boxes, colours and label positions.

    Args:
        found: Detections in the image.
        categories: Category names, indexed by the labels.
        colours: Colours by category; updated with new categories.
        min_score: Lowest score of a drawn box, in [0, 1].
        size: (height, width) of the image in pixels.
        letter: Letter height in image pixels.
        max_boxes: Maximum number of boxes; those with the highest scores are kept.

    Returns:
        Boxes by descending score, and the number of boxes per category.
    """
    boxes: list[Box] = []
    counts: dict[str, int] = {}
    taken: list[Area] = []
    order = found.scores.argsort(descending=True, stable=True)
    for index in order[found.scores[order] >= min_score][:max_boxes].tolist():
        x1, y1, x2, y2 = found.boxes[index].tolist()
        category, area = categories[int(found.labels[index])], (x1, y1, x2 - x1, y2 - y1)
        colour = colours.setdefault(category, COLOURS[len(colours) % len(COLOURS)])
        caption = f"{category} {float(found.scores[index]):.2f}"
        label = _room(area, len(caption), taken, size, letter)
        if label is not None:
            taken.append(label)
        boxes.append(Box(area, caption, colour, label))
        counts[category] = counts.get(category, 0) + 1
    return boxes, [Count(category, colours[category], count) for category, count in counts.items()]


def draw_boxes(image: Image.Image, boxes: Sequence[Box], letter: float) -> None:
    """Draw boxes, and then their labels, into an RGB image.

    Args:
        image: Image to draw into, in place.
        boxes: Boxes from `place_boxes` for an image of this size.
        letter: Letter height given to `place_boxes`.
    """
    draw = ImageDraw.Draw(image)
    line = max(1, round(letter / 7))
    for box in boxes:
        x, y, width, height = box.area
        for colour, thickness in ((_HALO, 2 * line), (box.colour, line)):
            draw.rectangle((x, y, x + width, y + height), outline=colour, width=thickness)
    for box in boxes:
        if box.label is None:
            continue
        x, y, room, height = box.label
        length = ImageFont.load_default(letter).getlength(box.caption)
        width = min(room, length + 0.5 * letter)
        font = ImageFont.load_default(letter * min(1, (width - 0.3 * letter) / length))
        draw.rectangle((x, y, x + width, y + height), fill=box.colour)
        draw.text((x + width / 2, y + height / 2), box.caption, fill=_INK, font=font, anchor="mm")


def _room(
    area: Area, num_letters: int, taken: Sequence[Area], size: tuple[int, int], letter: float
) -> Area | None:
    """Return a free label area: above the box, inside its top, below it or inside its bottom, or None."""
    x, y, _, box_height = area
    width, height = (num_letters * _LETTER_WIDTH + 0.5) * letter, _LABEL_HEIGHT * letter
    left = max(min(x, size[1] - width), 0)
    for top in (y - height, y, y + box_height, y + box_height - height):
        label = (left, top, width, height)
        if 0 <= top <= size[0] - height and not any(_overlap(label, other) for other in taken):
            return label
    return None


def _overlap(a: Area, b: Area) -> bool:
    return all(a[i] < b[i] + b[i + 2] and b[i] < a[i] + a[i + 2] for i in (0, 1))
