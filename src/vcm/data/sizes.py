"""Reconcile annotated image sizes with those of the image files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vcm.data.reading import Header

OVERHANG = 1.0
"""Pixels by which a box may exceed its image due to rounding; beyond that it is clipped and reported."""

Size = tuple[int, int]
"""(height, width) in pixels."""
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels."""


@dataclass(frozen=True)
class Placement:
    """Transformation from annotated boxes to boxes of the image as it is read.

    Attributes:
        size: (height, width) of the image as it is read, in pixels.
        scale: Factors of x and y, from annotated pixels to pixels of the file.
        orientation: EXIF orientation to apply to the boxes after scaling, 1 to 8.
        note: Description of the difference and the correction; empty if there is none.
    """

    size: Size
    scale: tuple[float, float] = (1.0, 1.0)
    orientation: int = 1
    note: str = ""

    @property
    def area_scale(self) -> float:
        """Factor for areas."""
        return self.scale[0] * self.scale[1]

    def __call__(self, box: Box) -> Box:
        """Transform one box."""
        x1, y1, x2, y2 = (value * self.scale[place % 2] for place, value in enumerate(box))
        sideways = self.orientation >= 5
        height, width = self.size[::-1] if sideways else self.size
        # EXIF orientations mirror the stored image, and then transpose it if it lies sideways.
        if self.orientation in (2, 3, 7, 8):
            x1, x2 = width - x2, width - x1
        if self.orientation in (3, 4, 6, 7):
            y1, y2 = height - y2, height - y1
        return (y1, x1, y2, x2) if sideways else (x1, y1, x2, y2)


@dataclass(frozen=True)
class Annotated:
    """Annotated and actual size of one image.

    Attributes:
        stated: Annotated (height, width); None if missing or not positive.
        header: Header of the image file.
        extent: Largest x and y of all boxes, in annotated pixels.
    """

    stated: Size | None
    header: Header
    extent: tuple[float, float]

    @property
    def is_stored(self) -> bool | None:
        """Whether the boxes are in the stored orientation; None if the annotated size does not show it."""
        shown, stored = self.header.size, self.header.stored_size
        if self.stated is None or shown == stored:
            return None
        if self.stated in (shown, stored):
            return self.stated == stored
        fits_shown, fits_stored = (bool(_scale(self.stated, size)) for size in (shown, stored))
        return None if fits_shown == fits_stored else fits_stored

    @property
    def is_swapped(self) -> bool:
        """Whether width and height are certainly swapped, because EXIF does not rotate the image."""
        shown = self.header.size
        swapped = self.stated is not None and self.stated[::-1] == shown != self.stated
        return swapped and self.header.orientation == 1 and _fits(self.extent, shown)


def extent_of(annotations: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the largest x and y, in pixels, of the valid boxes of one image."""
    right = bottom = 0.0
    for annotation in annotations:
        try:
            x, y, width, height = map(float, annotation["bbox"])
        except (KeyError, TypeError, ValueError, OverflowError):
            continue  # reported when the box is read
        if width > 0 and height > 0 and math.isfinite(x + y + width + height):
            right, bottom = max(right, x + width), max(bottom, y + height)
    return right, bottom


def stored_orientation(every: Sequence[Annotated]) -> bool | None:
    """Return whether a dataset's boxes are in the stored orientation, judging by the images that show it.

    None if no image shows it, or the images contradict each other.
    """
    if any(item.is_swapped for item in every):
        return False  # swapped width and height make sizes look stored
    kinds = {item.is_stored for item in every} - {None}
    return kinds.pop() if len(kinds) == 1 else None


def place(item: Annotated, *, stored: bool | None) -> Placement | None:
    """Return how to transform the boxes of an image; None if nothing explains the annotated size.

    Args:
        item: The image.
        stored: Result of `stored_orientation` for its dataset.
    """
    header, stated, extent = item.header, item.stated, item.extent
    shown, in_file = header.size, header.stored_size
    if stated is None:
        return _without_size(item, stored=stored)
    differs = describe(stated, header)
    if item.is_stored is not True and (scale := _scale(stated, shown)):
        if stated == shown:
            placed = Placement(shown)
        elif not _fits(extent, stated) and _fits(extent, shown):
            placed = Placement(shown, note=f"{differs}: the boxes fit the file, whose size is used")
        else:
            placed = Placement(shown, scale, note=f"{differs}: boxes scaled by {_factor(scale)}")
        return _turned(placed, header, stored=stored) if item.is_stored is None else placed
    if item.is_stored and (scale := _scale(stated, in_file)):
        is_swapped = stored is False or not _fits(extent, stated)
        if is_swapped and stated == in_file and _fits(extent, shown):
            return Placement(shown, note=f"{differs}: width and height are swapped; the file's are used")
        how = f"{differs} by EXIF orientation {header.orientation}: boxes rotated as the image is"
        how += "" if stated == in_file else f", and scaled by {_factor(scale)}"
        return Placement(shown, scale, header.orientation, how)
    return _swapped(stated, shown, extent, differs)


def _swapped(stated: Size, shown: Size, extent: tuple[float, float], differs: str) -> Placement | None:
    """Handle swapped width and height, possibly of a resized image; None if they are not swapped."""
    scale = _scale(stated[::-1], shown)
    differs = f"{differs}: width and height are swapped"
    if scale and stated[::-1] != shown and _fits(extent, stated[::-1]):
        return Placement(shown, scale, note=f"{differs}; boxes scaled by {_factor(scale)}")
    if scale and _fits(extent, shown):
        return Placement(shown, note=f"{differs}; the file's are used")
    return None


def describe(stated: Size | None, header: Header) -> str:
    """Describe annotated and actual size, for messages."""
    annotated = "annotated without a size" if stated is None else f"annotated for {_text(stated)}"
    return f"{annotated}, the file has {_text(header.size)}"


def _without_size(item: Annotated, *, stored: bool | None) -> Placement:
    """Handle a missing size: use the file's, in the orientation that the boxes fit."""
    header = item.header
    shown, in_file = header.size, header.stored_size
    note = f"no width and height are annotated: the file's {_text(shown)} are used"
    if shown == in_file:
        return _turned(Placement(shown, note=note), header, stored=stored)
    fits_shown, fits_stored = _fits(item.extent, shown), _fits(item.extent, in_file)
    if fits_stored and (not fits_shown or stored):
        note += f"; boxes rotated as the image is, by EXIF orientation {header.orientation}"
        return Placement(shown, orientation=header.orientation, note=note)
    return Placement(shown, note=note)


def _turned(placed: Placement, header: Header, *, stored: bool | None) -> Placement:
    """Handle an image that EXIF rotates without changing its size, by the rest of the dataset."""
    if header.orientation == 1 or stored is False:
        return placed
    turn = f"EXIF orientation {header.orientation}"
    if stored is None:
        note = f"it is turned by {turn}, its size does not tell whether its boxes are: taken as they are"
        return Placement(placed.size, placed.scale, 1, "; ".join(filter(None, (placed.note, note))))
    note = f"boxes rotated as the image is, by {turn}, like others of this dataset"
    note = "; ".join(filter(None, (placed.note, note)))
    return Placement(placed.size, placed.scale, header.orientation, note)


def _fits(extent: tuple[float, float], size: Size) -> bool:
    return extent[0] <= size[1] + OVERHANG and extent[1] <= size[0] + OVERHANG


def _scale(stated: Size, size: Size) -> tuple[float, float] | None:
    """Return the factors of x and y if one image is the other resized (with rounded sides), else None."""
    low = max((real - 1) / side for real, side in zip(size, stated, strict=True))
    high = min((real + 1) / side for real, side in zip(size, stated, strict=True))
    return (size[1] / stated[1], size[0] / stated[0]) if low < high else None


def _text(size: Size) -> str:
    return f"{size[1]}×{size[0]}"


def _factor(scale: tuple[float, float]) -> str:
    return f"{math.sqrt(scale[0] * scale[1]):.4g}"
