"""Read image files as RGB tensors (3, H, W), uint8."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vcm.errors import ImageError
from vcm.files import MAX_IMAGE_BYTES, find_files, open_regular, printable, read_bytes

IMAGE_SUFFIXES = frozenset(
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
"""EXIF orientation tag, and its values that swap height and width."""


@dataclass(frozen=True)
class Header:
    """Size and orientation of an image file.

    Attributes:
        size: (height, width) of the image as `read_image` returns it, in pixels.
        orientation: EXIF orientation, 1 to 8; 1 if the file stores the image as it is displayed.
    """

    size: tuple[int, int]
    orientation: int

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) of the pixels in the file, before EXIF orientation is applied."""
        return self.size[::-1] if self.orientation in _SIDEWAYS else self.size


def find_images(folder: Path, problems: list[str] | None = None) -> list[Path]:
    """Find all image files below `folder`, by suffix; see `find_files`."""
    return find_files(folder, IMAGE_SUFFIXES, problems)


def relative_id(path: Path, root: Path) -> str:
    """Return an image's id: its path relative to the dataset's folder, which is the same on every machine."""
    return printable(path.relative_to(root).as_posix())


def read_header(path: str | Path) -> Header:
    """Read an image's size and orientation without decoding its pixels.

    Raises:
        ImageError: If the header cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_regular(path, limit=MAX_IMAGE_BYTES) as file, Image.open(file) as image:
                width, height = image.size
                orientation = image.getexif().get(_ORIENTATION)
                # Pillow already rotates the size of a TIFF.
                turned = image.format != "TIFF" and orientation in _SIDEWAYS
    except Exception as error:  # Pillow can raise anything on damaged files
        raise ImageError(f"{printable(path)}: its size cannot be read: {_reason(error)}") from error
    orientation = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    return Header((width, height) if turned else (height, width), orientation)


def image_size(path: str | Path) -> tuple[int, int]:
    """Return the (height, width) of `read_image`'s result, from the file's header.

    Raises:
        ImageError: If the header cannot be read.
    """
    return read_header(path).size


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def read_image(path: str | Path) -> Tensor:
    """Read one image as (3, H, W) uint8 RGB, as it is displayed.

    EXIF orientation is applied. Grey, palette and CMYK images are converted to RGB, transparency is
    composited over white, 16-bit samples keep their upper 8 bits, and of an animation the first frame is
    read.

    Raises:
        ImageError: If the file is missing, not a regular file (a FIFO, device or folder), larger than 1 GiB,
            not an image, truncated, has too many pixels, or floating-point samples.
    """
    name = printable(path)
    try:
        data = read_bytes(path, limit=MAX_IMAGE_BYTES)
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {_reason(error)}.") from error
    if not data:
        raise ImageError(f"{name}: the file is empty.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged EXIF and large images, which users need not see
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                pixels = np.array(_as_rgb(image))
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: is not an image that Pillow can read.") from error
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; tile it first."
        ) from error
    except Exception as error:  # Pillow can raise OSError, SyntaxError, RuntimeError, …
        raise ImageError(f"{name}: is truncated or damaged: {error}.") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _as_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ImageError("has floating-point samples; convert it to 8 bits with the range that you need.")
    if image.mode.startswith("I"):
        samples = np.asarray(image)
        if int(samples.min()) < 0 or int(samples.max()) > 0xFFFF:
            raise ImageError("has 32-bit samples; convert it to 8 bits with the range that you need.")
        image = Image.fromarray((samples >> 8).astype(np.uint8))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), coloured).convert("RGB")
    return image.convert("RGB")
