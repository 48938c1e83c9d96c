"""Container of learned codecs' streams. Parsing needs neither a model nor torch.

```
bytes  field
3      "VCM"
1      version, 2
1      purpose: 0 image, 1 detection, 2 classification, 3 other features; + 128 if a coded size follows
4      fingerprint of the model for this task
1–5    channels of the latent (each number is a base-128 varint, least significant group first)
1–5    quality in sixteenths; 16 for a model with a single quality
1–5    height of the original image
1–5    width of the original image
…      coded height and width, only if they differ from the original's
1      number of sections
1–5    length of each section in bytes
…      the sections
4      CRC-32 of all preceding bytes, big-endian
```
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from vcm.codecs.headers import MAX_PIXELS
from vcm.errors import BitstreamError
from vcm.types import QUALITY_STEPS

MAGIC = b"VCM"
VERSION = 2
FINGERPRINT_BYTES = 4
PURPOSES = ("reconstruction", "detection", "classification", "features")
_OTHER_SIZE = 0x80
_CRC_BYTES = 4
_MAX_SECTIONS = 16
_MAX_CHANNELS = 1 << 16
_MAX_QUALITY = 1 << 16
_MAX_SECTION_BYTES = 1 << 31
_KNOWN = {
    b"\xff\xd8\xff": "a JPEG file",
    b"\x89PNG": "a PNG file",
    b"BPG\xfb": "a BPG file",
    b"RIFF": "a WebP or other RIFF file",
    b"GIF8": "a GIF file",
    b"\x00\x00\x00\x0cjP": "a JPEG 2000 file",
}


@dataclass(frozen=True)
class Header:
    """Header of a stream.

    Attributes:
        purpose: Purpose of the stream, one of `PURPOSES`.
        fingerprint: First four bytes of the fingerprint of the model for the task.
        channels: Channels of the latent.
        size: (height, width) of the original image in pixels.
        coded_size: (height, width) of the coded tensor in pixels: the original's, or that of a task's input.
        quality: Quality of the model, a multiple of 1/16; 1 for a model with a single quality.
    """

    purpose: str
    fingerprint: bytes
    channels: int
    size: tuple[int, int]
    coded_size: tuple[int, int]
    quality: float = 1.0


@dataclass(frozen=True)
class Stream:
    """A parsed stream.

    Attributes:
        header: Fields of the header.
        sections: Entropy-coded bytes of each section.
        overhead: Number of bytes of header and checksum.
    """

    header: Header
    sections: tuple[bytes, ...]
    overhead: int


def write_stream(header: Header, sections: Sequence[bytes]) -> bytes:
    """Serialize a stream."""
    other_size = header.coded_size != header.size
    out = bytearray(MAGIC)
    out += bytes([VERSION, PURPOSES.index(header.purpose) | (_OTHER_SIZE if other_size else 0)])
    out += header.fingerprint
    quality = round(header.quality * QUALITY_STEPS)
    numbers = [header.channels, quality, *header.size, *(header.coded_size if other_size else ())]
    for number in (*numbers, len(sections), *map(len, sections)):
        out += _varint(number)
    for section in sections:
        out += section
    return bytes(out + zlib.crc32(out).to_bytes(_CRC_BYTES, "big"))


def read_stream(data: bytes) -> Stream:
    """Parse a stream and check everything that can be checked without a model.

    Raises:
        BitstreamError: If it is empty, of another format or version, too short, too long, damaged, or has
            invalid sizes.
    """
    data = bytes(data)
    if not data:
        raise BitstreamError("the stream is empty (0 bytes).")
    if data[: len(MAGIC)] != MAGIC:
        kind = next((name for start, name in _KNOWN.items() if data.startswith(start)), "")
        if MAGIC.startswith(data):
            raise BitstreamError(f"the stream is cut short: {len(data)} bytes are less than a header.")
        raise BitstreamError(f"not a vcm stream{f' but {kind}' if kind else ''}: it does not begin with VCM.")
    reader = _Reader(data, len(MAGIC))
    version = reader.take(1)[0]
    if version != VERSION:
        raise BitstreamError(
            f"the stream has format version {version}; this release of vcm reads version {VERSION}."
        )
    try:
        header, lengths = _read_header(reader)
        fault = ""
    except BitstreamError as error:  # the checksum cannot be located, so report the header's error
        header, lengths, fault = None, [], str(error)
    if header is not None:
        expected = reader.position + sum(lengths) + _CRC_BYTES
        if len(data) < expected:
            fault = f"the stream is cut short or damaged: it has {len(data)} bytes of {expected}."
        elif len(data) > expected:
            fault = f"the stream is damaged: it has {len(data)} bytes, {len(data) - expected} too many."
    if fault:
        raise BitstreamError(fault)
    if zlib.crc32(data[:-_CRC_BYTES]) != int.from_bytes(data[-_CRC_BYTES:], "big"):
        raise BitstreamError("the stream is damaged: its checksum does not match.")
    assert header is not None
    overhead = reader.position + _CRC_BYTES
    sections = tuple(reader.take(length) for length in lengths)
    return Stream(header, sections, overhead)


def _read_header(reader: _Reader) -> tuple[Header, list[int]]:
    flags = reader.take(1)[0]
    if flags & ~_OTHER_SIZE >= len(PURPOSES):
        raise BitstreamError(f"the stream is damaged: it has an unknown purpose, {flags & ~_OTHER_SIZE}.")
    fingerprint = reader.take(FINGERPRINT_BYTES)
    channels = reader.number("channels", _MAX_CHANNELS)
    quality = reader.number("quality in sixteenths", _MAX_QUALITY) / QUALITY_STEPS
    size = reader.size()
    coded_size = reader.size() if flags & _OTHER_SIZE else size
    count = reader.number("sections", _MAX_SECTIONS)
    lengths = [reader.number("bytes of a section", _MAX_SECTION_BYTES, low=0) for _ in range(count)]
    return Header(PURPOSES[flags & ~_OTHER_SIZE], fingerprint, channels, size, coded_size, quality), lengths


class _Reader:
    """Reads bytes and numbers sequentially."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.data):
            raise BitstreamError(f"the stream is cut short: it ends after {len(self.data)} bytes.")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def number(self, what: str, high: int, *, low: int = 1) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
        else:
            raise BitstreamError(f"the stream is damaged: a number ({what}) does not end.")
        if not low <= value <= high:
            raise BitstreamError(f"the stream is damaged: {what} must be {low} to {high}; got {value}.")
        return value

    def size(self) -> tuple[int, int]:
        height, width = self.number("height", MAX_PIXELS), self.number("width", MAX_PIXELS)
        if height * width > MAX_PIXELS:
            raise BitstreamError(
                f"the stream is damaged: it states an image size of {height}x{width}, and at most "
                f"{MAX_PIXELS} pixels are allowed."
            )
        return height, width


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
