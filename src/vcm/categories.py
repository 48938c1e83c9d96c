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
"""The ids of `COCO_CATEGORIES` in COCO's own files, which leave some numbers out."""

_ALIASES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""Darknet's and PASCAL VOC's words for COCO's categories, spaces taken out."""


def canonical(name: str) -> str:
    """Lower case, without spaces, hyphens and underscores, and with VOC's words turned into COCO's."""
    plain = "".join(c for c in name.lower() if c not in " -_")
    return _ALIASES.get(plain, plain)


def match_categories(source: Sequence[str], target: Sequence[str]) -> list[int]:
    """For each name in `source`, its index in `target`, or -1 where `target` has no such name.

    Names are compared without regard to case, spaces, and the words in which Darknet and PASCAL VOC differ
    from COCO.
    """
    index = {canonical(name): i for i, name in enumerate(target)}
    return [index.get(canonical(name), -1) for name in source]


def category_ids(categories: Sequence[str]) -> list[int]:
    """The number of each category in COCO's form: the official one, if they are COCO's 80; else from 1 on."""
    indexes = match_categories(categories, COCO_CATEGORIES)
    if sorted(indexes) == list(range(len(COCO_CATEGORIES))):
        return [COCO_IDS[index] for index in indexes]
    return list(range(1, len(categories) + 1))


def read_names(path: str | Path) -> tuple[str, ...]:
    """Class names from a text file with one a line, in the order of their indices.

    Raises:
        ArgumentError: If the file is missing, no text, or holds no name.
    """
    expected = "a readable text file with one class name a line"
    try:
        lines = read_text(path, limit=_MAX_NAMES_BYTES, encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ArgumentError("names", expected=expected, got=f"{path}: {reason}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names:
        raise ArgumentError("names", expected=expected, got=f"{path}: no name in it")
    return names
