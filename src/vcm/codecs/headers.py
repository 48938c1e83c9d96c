"""Read image sizes from JPEG and WebP headers, before a library allocates memory for them."""

from __future__ import annotations

from vcm.errors import BitstreamError


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) from a Huffman-coded JPEG's frame header; None if it is not found."""
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in range(0xC0, 0xC4):
            height, width = (int.from_bytes(data[position + at : position + at + 2], "big") for at in (5, 7))
            return width, height
        if marker == 0xFF:
            position += 1
            continue
        if marker == 0xDA or length < 2:
            break
        position += 2 + length
    return None


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) from the first chunk of a WebP stream; None if it is not recognized."""
    kind, body = data[12:16], data[20:30]
    if len(body) < 10:
        return None
    if kind == b"VP8X":
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return None


MAX_PIXELS = 1 << 26
"""Width × height, 67 megapixels: a few forged bytes must not ask for gigabytes of memory."""


def check_pixels(title: str, width: int, height: int) -> None:
    """Check a size that a stream states, before anything is allocated for it.

    Raises:
        BitstreamError: If a side is 0, or there are more than `MAX_PIXELS` pixels.
    """
    if not 0 < width * height <= MAX_PIXELS:
        raise BitstreamError(f"{title}: an image must have 1 to {MAX_PIXELS} pixels; got {width}x{height}.")
