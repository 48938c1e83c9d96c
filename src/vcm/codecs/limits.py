"""Maximum size of decoded images."""

from __future__ import annotations

from vcm.errors import BitstreamError

MAX_PIXELS = 1 << 26
"""Maximum width × height, 67 megapixels, so that a forged header cannot allocate gigabytes of memory."""


def check_pixels(title: str, width: int, height: int) -> None:
    """Check the size in a stream's header before memory is allocated for it.

    Raises:
        BitstreamError: If the image has no pixels or more than `MAX_PIXELS`.
    """
    if not 0 < width * height <= MAX_PIXELS:
        raise BitstreamError(f"{title}: an image must have 1 to {MAX_PIXELS} pixels; got {width}x{height}.")
