"""Class names of networks and datasets, and their matching."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vcm.errors import ArgumentError
from vcm.files import read_text

_MAX_NAMES_BYTES = 16 << 20

COCO_CATEGORIES: tuple[str, ...] = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear",
    "hair drier", "toothbrush",
)  # fmt: skip
"""COCO's 80 object categories in the order of their ids."""

COCO_IDS: tuple[int, ...] = tuple(
    number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
)
"""Ids of `COCO_CATEGORIES` in COCO's annotation files, which skip some numbers."""

_ALIASES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""COCO names of the categories that Darknet and PASCAL VOC name differently, without spaces."""


def canonical(name: str) -> str:
    """Normalize a name: lower case, no spaces, hyphens or underscores, COCO's synonym for VOC's words."""
    plain = "".join(c for c in name.lower() if c not in " -_")
    return _ALIASES.get(plain, plain)


def match_categories(source: Sequence[str], target: Sequence[str]) -> list[int]:
    """Return, for each name in `source`, its index in `target`, or -1 if there is none.

    The comparison ignores case, spaces, hyphens, underscores and the differences between COCO and VOC names.
    """
    index = {canonical(name): i for i, name in enumerate(target)}
    return [index.get(canonical(name), -1) for name in source]


def category_ids(categories: Sequence[str]) -> list[int]:
    """Return the COCO id of each category: official ids for COCO's 80 categories, else 1, 2, …"""
    indexes = match_categories(categories, COCO_CATEGORIES)
    if sorted(indexes) == list(range(len(COCO_CATEGORIES))):
        return [COCO_IDS[index] for index in indexes]
    return list(range(1, len(categories) + 1))


def read_names(path: str | Path) -> tuple[str, ...]:
    """Read class names from a text file with one name per line, in the order of their indices.

    Raises:
        ArgumentError: If the file is missing, not a text file, or contains no names.
    """
    expected = "a readable text file with one class name per line"
    try:
        lines = read_text(path, limit=_MAX_NAMES_BYTES, encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ArgumentError("names", expected=expected, got=f"{path}: {reason}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise ArgumentError("names", expected=expected, got=f"{path}, which contains no names")
    return names
