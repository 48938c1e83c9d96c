"""Picture files in, (3, H, W) uint8 RGB tensors out."""

from __future__ import annotations

import io
import warnings
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


def find_pictures(folder: Path) -> list[Path]:
    """Every picture file below `folder`, by suffix, sorted by path; hidden files and folders are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in PICTURE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def read_picture(path: Path) -> Tensor:
    """Read one picture as (3, H, W) uint8 RGB, the way a person would see it.

    EXIF orientation is applied. Grey, palette and CMYK become RGB; transparency is laid over white; of 16
    bits the upper 8 are kept; of an animation the first frame.

    Raises:
        PictureError: If the file is missing, not a picture, truncated, too large, or of floating-point
            samples.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PictureError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if not data:
        raise PictureError(f"{path}: the file is empty.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # damaged EXIF, large but allowed pictures: not for a person to read
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                pixels = np.array(_as_rgb(image))
    except UnidentifiedImageError as error:
        raise PictureError(f"{path}: is not a picture that Pillow can read.") from error
    except PictureError as error:
        raise PictureError(f"{path}: {error}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(
            f"{path}: has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels; tile it first."
        ) from error
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        MemoryError,
    ) as error:
        # what Pillow's readers raise on damaged files
        raise PictureError(f"{path}: is truncated or damaged: {error}.") from error
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
