"""The largest image that a decoder here makes."""

from __future__ import annotations

from vcm.errors import BitstreamError

MAX_PIXELS = 1 << 26
"""Width × height, 67 megapixels: a few forged bytes must not ask for gigabytes of memory."""


def check_pixels(title: str, width: int, height: int) -> None:
    """Check a size that a stream states, before anything is allocated for it.

    Raises:
        BitstreamError: If a side is 0, or there are more than `MAX_PIXELS` pixels.
    """
    if not 0 < width * height <= MAX_PIXELS:
        raise BitstreamError(f"{title}: an image must have 1 to {MAX_PIXELS} pixels; got {width}x{height}.")
