"""Provenance marks in PNG files, by which a repeated command recognizes its outputs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from vcm.files import MAX_IMAGE_BYTES, open_regular

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngInfo

_KEY = "vcm"
"""Key of the PNG text chunk."""


def content_mark(*parts: object) -> str:
    """Return a SHA-256 hash of the parts, as text."""
    return hashlib.sha256("\0".join(map(str, parts)).encode(errors="backslashreplace")).hexdigest()


def png_info(mark: str) -> PngInfo:
    """Return the `pnginfo` option with which Pillow writes a mark into a PNG file."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text(_KEY, mark)
    return info


def bears_mark(path: Path, mark: str) -> bool:
    """Return whether a file is a PNG with this mark."""
    from PIL import Image

    try:
        with open_regular(path, limit=MAX_IMAGE_BYTES) as file, Image.open(file, formats=["PNG"]) as image:
            return image.info.get(_KEY) == mark
    except Exception:  # Pillow can raise anything on other files
        return False
