"""Provenance marks in PNG files, so that a repeated command recognizes its outputs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from vcm.files import MAX_IMAGE_BYTES, open_regular

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

_KEY = "vcm"
"""Of the text chunk."""


def content_mark(*parts: object) -> str:
    """Return a short text that is equal for equal parts only."""
    return hashlib.sha256("\0".join(map(str, parts)).encode(errors="backslashreplace")).hexdigest()


def png_info(mark: str) -> PngInfo:
    """Return what Pillow writes a mark into a PNG file with, as its option `pnginfo`."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(_KEY, mark)
    return info


def bears_mark(path: Path, mark: str) -> bool:
    """Whether a file is a PNG with this mark."""
    from PIL import Image

    try:
        with open_regular(path, limit=MAX_IMAGE_BYTES) as file, Image.open(file, formats=["PNG"]) as image:
            return image.info.get(_KEY) == mark
    except Exception:  # whatever Pillow's readers raise on other files
        return False
