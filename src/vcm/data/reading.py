"""Picture files in, (3, H, W) uint8 RGB tensors out."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vcm.errors import PictureError

PICTURE_SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pnm",
        ".gif",
        ".jp2",
        ".avif",
    )
)

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF's orientation tag, and its values that swap height and width."""


def find_pictures(folder: Path) -> list[Path]:
    """Every picture file below `folder`, by suffix; see `find_files`."""
    return find_files(folder, PICTURE_SUFFIXES)


def find_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Every file below `folder` with one of the suffixes, sorted by path; nothing that is hidden.

    Args:
        folder: Where to look, at any depth.
        suffixes: In lower case, each with its dot.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def printable(text: str | Path) -> str:
    """The text in characters that every file can hold; a name that is not UTF-8 gets backslash escapes."""
    return str(text).encode(errors="backslashreplace").decode()


def picture_id(path: Path, root: Path) -> str:
    """A picture's id: its path below the data set's folder, the same on every machine."""
    return printable(path.relative_to(root).as_posix())


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of what `read_picture` would give, from the file's header alone.

    Raises:
        PictureError: If the header cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
                # Pillow has turned a TIFF's size already.
                turned = image.format != "TIFF" and image.getexif().get(_ORIENTATION) in _SIDEWAYS
    except Exception as error:  # whatever Pillow's readers raise on damaged files
        raise PictureError(f"{printable(path)}: its size cannot be read: {error}") from error
    return (width, height) if turned else (height, width)


def read_picture(path: Path) -> Tensor:
    """Read one picture as (3, H, W) uint8 RGB, the way a person would see it.

    EXIF orientation is applied. Grey, palette and CMYK become RGB; transparency is laid over white; of 16
    bits the upper 8 are kept; of an animation the first frame.

    Raises:
        PictureError: If the file is missing, not a picture, truncated, too large, or of floating-point
            samples.
    """
    name = printable(path)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise PictureError(f"{name}: cannot be read: {getattr(error, 'strerror', error)}.") from error
    if not data:
        raise PictureError(f"{name}: the file is empty.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # damaged EXIF, large but allowed pictures: not for a person to read
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                pixels = np.array(_as_rgb(image))
    except UnidentifiedImageError as error:
        raise PictureError(f"{name}: is not a picture that Pillow can read.") from error
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{name}: has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; tile it first."
        ) from error
    except Exception as error:  # OSError, SyntaxError, RuntimeError, …: whatever Pillow's readers raise
        raise PictureError(f"{name}: is truncated or damaged: {error}.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _as_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise PictureError("has floating-point samples; convert it to 8 bits with the range that you mean.")
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        if int(samples.min()) < 0 or int(samples.max()) > 0xFFFF:
            raise PictureError("has 32-bit samples; convert it to 8 bits with the range that you mean.")
        image = Image.fromarray((samples >> 8).astype(np.uint8))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured).convert("RGB")
    return image.convert("RGB")
