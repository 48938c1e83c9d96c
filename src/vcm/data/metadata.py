"""Image metadata that remains valid for decoded pixels: EXIF and ICC profiles."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vcm.files import MAX_IMAGE_BYTES, open_regular

_EXIF_IFD, _GPS_IFD = 0x8769, 0x8825
_KEPT = (
    0x010E,  # description
    0x010F, 0x0110,  # make, model
    0x011A, 0x011B, 0x0128,  # resolution, and its unit
    0x0131, 0x0132, 0x013B, 0x8298,  # software, date, artist, copyright
    _EXIF_IFD, _GPS_IFD,
)  # fmt: skip
"""EXIF tags about the image; the others describe its file (orientation, strips, thumbnail)."""
_EXIF_SIZE = (0xA002, 0xA003)
_ICC_SPACE, _RGB = slice(16, 20), b"RGB "


@dataclass(frozen=True)
class Metadata:
    """Metadata that can be written next to the pixels.

    Attributes:
        exif: EXIF data without orientation (already applied to the pixels) and thumbnail; may be empty.
        icc_profile: ICC profile for RGB; may be empty.
    """

    exif: bytes = b""
    icc_profile: bytes = b""


def read_metadata(path: Path, size: tuple[int, int]) -> Metadata:
    """Read an image's EXIF data and ICC profile; missing or damaged data is omitted.

    A profile that is not for RGB is also omitted, because `read_image` has converted such pixels to plain
    RGB.

    Args:
        path: A file that `read_image` has read.
        size: (height, width) of the image that it returned, in pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with open_regular(path, limit=MAX_IMAGE_BYTES) as file, Image.open(file) as image:
            profile = image.info.get("icc_profile") or b""
            try:
                exif = _exif(image, size)
            except Exception:  # Pillow can raise anything on damaged EXIF
                exif = b""
    return Metadata(exif, profile if profile[_ICC_SPACE] == _RGB else b"")


def _exif(image: Image.Image, size: tuple[int, int]) -> bytes:
    exif = image.getexif()
    for tag in set(exif) - set(_KEPT):
        del exif[tag]
    for tag, value in exif.items():
        if isinstance(value, str):
            exif[tag] = value.encode("latin-1")  # inverts Pillow's decoding; it would write strings as ASCII
    if not exif:
        return b""
    details = exif.get_ifd(_EXIF_IFD) if _EXIF_IFD in exif else {}
    for tag, length in zip(_EXIF_SIZE, reversed(size), strict=True):
        if tag in details:
            details[tag] = length
    return exif.tobytes()
