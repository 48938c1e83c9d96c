"""BPG container around the HEVC data, as specified in libbpg's doc/bpg_spec.txt."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from vcm.codecs.bpg.bits import read_ue7, write_ue7
from vcm.codecs.bpg.colour import ColourSpace
from vcm.codecs.bpg.sps import CodingParameters
from vcm.codecs.headers import check_pixels
from vcm.errors import BitstreamError

MAGIC = b"BPG\xfb"
_BIT_DEPTHS = (8, 9, 10, 12)
_DIGEST_TAG = 0x7643  # "vC": a private tag; decoders skip unknown tags
_DIGEST_SIZE = 8


@dataclass(frozen=True)
class BPGHeader:
    """Header of a BPG file.

    Attributes:
        width: Image width in pixels, at least 1.
        height: Image height in pixels, at least 1.
        chroma_format: 0 gray, 1 4:2:0, 2 4:2:2, 3 4:4:4.
        cosited: Whether subsampled chroma is sited on even columns (MPEG-2) rather than between columns
            (JPEG).
        bit_depth: Bits per sample: 8, 9, 10 or 12.
        colour_space: Colour space of the planes.
        limited_range: Whether luma spans 16–235 and chroma 16–240.
        alpha: Whether there is an alpha plane.
        premultiplied: Whether colour is premultiplied by alpha.
    """

    width: int
    height: int
    chroma_format: int
    cosited: bool = False
    bit_depth: int = 8
    colour_space: ColourSpace = ColourSpace.BT601
    limited_range: bool = False
    alpha: bool = False
    premultiplied: bool = False


@dataclass(frozen=True)
class BPGFile:
    """A parsed BPG file.

    Attributes:
        header: Fields of the header.
        parameters: Validated coding parameters of the colour planes.
        stream: NAL units in Annex B form, without the first start code.
        has_length: Whether the file states the length of its image data; truncation has then been ruled out.
        has_digest: Whether the file contains vcm's integrity hash, which has then been verified.
    """

    header: BPGHeader
    parameters: CodingParameters
    stream: bytes
    has_length: bool
    has_digest: bool


def write_file(
    header: BPGHeader, parameters: CodingParameters, nals: tuple[bytes, ...], *, digest: bool
) -> bytes:
    """Write a BPG file; with `digest`, an extension block contains a hash of everything else."""
    pixel_format = header.chroma_format + (3 if header.cosited else 0)
    coded = parameters.to_bpg()
    body = write_ue7(len(coded)) + coded + b"\x00\x00\x01".join(nals)
    head = (
        MAGIC
        + bytes([pixel_format << 5 | header.alpha << 4 | header.bit_depth - 8])
        + bytes(
            [header.colour_space << 4 | digest << 3 | header.premultiplied << 2 | header.limited_range << 1]
        )
        + write_ue7(header.width)
        + write_ue7(header.height)
        + write_ue7(len(body))
    )
    if not digest:
        return head + body
    extension = write_ue7(_DIGEST_TAG) + write_ue7(_DIGEST_SIZE) + _digest(head, body)
    return head + write_ue7(len(extension)) + extension + body


def _digest(head: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(head + body, digest_size=_DIGEST_SIZE, person=b"vcm.bpg").digest()


def read_file(data: bytes) -> BPGFile:
    """Parse a BPG file and check everything that can be checked before decoding.

    Raises:
        BitstreamError: If it is not a BPG still image, truncated, damaged, too large, or of an unsupported
            kind.
    """
    if not data.startswith(MAGIC):
        raise BitstreamError("BPG: the stream does not begin with BPG's magic bytes 42 50 47 fb.")
    if len(data) < 6:
        raise BitstreamError("BPG: the stream ends inside its header.")
    fields, extended = _read_flags(data[4], data[5])
    width, position = read_ue7(data, 6)
    height, position = read_ue7(data, position)
    check_pixels("BPG", width, height)
    length, position = read_ue7(data, position)
    header = BPGHeader(width=width, height=height, **fields)
    head, extension = data[:position], b""
    if extended:
        size, position = read_ue7(data, position)
        extension = data[position : position + size]
        position += size
    body = data[position:]
    if position > len(data) or length > len(body):
        raise BitstreamError(f"BPG: the stream is truncated: {len(body)} of {length} bytes of image data.")
    if length and length < len(body):
        raise BitstreamError(f"BPG: {len(body) - length} bytes follow the end of the image.")
    stored = _find_digest(extension)
    if stored is not None and stored != _digest(head, body):
        raise BitstreamError("BPG: the stream is damaged: its integrity hash does not match.")
    parameters, stream = _read_parameters(body, header)
    return BPGFile(header, parameters, stream, has_length=length > 0, has_digest=stored is not None)


def _read_flags(first: int, second: int) -> tuple[dict[str, Any], bool]:
    """Parse the two bytes of header flags; also return whether an extension follows."""
    pixel_format, bit_depth, colour_space = first >> 5, (first & 15) + 8, second >> 4
    alpha, premultiplied = bool(first & 16), bool(second & 4)
    if pixel_format > 5:
        raise BitstreamError(f"BPG: pixel_format must be 0 to 5; got {pixel_format}.")
    if bit_depth not in _BIT_DEPTHS:
        raise BitstreamError(f"BPG: bit depth must be 8, 9, 10 or 12; got {bit_depth}.")
    if colour_space > max(ColourSpace):
        raise BitstreamError(f"BPG: color_space must be 0 to {max(ColourSpace):d}; got {colour_space}.")
    if second & 1:
        raise BitstreamError("BPG: the stream is an animation; only still images can be decoded.")
    if premultiplied and not alpha:
        raise BitstreamError("BPG: the stream is CMYK, which is not supported.")
    chroma_format = pixel_format - 3 if pixel_format > 3 else pixel_format
    if colour_space == ColourSpace.RGB and chroma_format in (1, 2):
        raise BitstreamError(f"BPG: RGB planes need pixel_format 3 (4:4:4); got {pixel_format}.")
    fields = {
        "chroma_format": chroma_format,
        "cosited": pixel_format > 3,
        "bit_depth": bit_depth,
        "colour_space": ColourSpace(colour_space),
        "limited_range": bool(second & 2),
        "alpha": alpha,
        "premultiplied": premultiplied,
    }
    return fields, bool(second & 8)


def _find_digest(extension: bytes) -> bytes | None:
    """Return vcm's integrity hash from the tagged blocks of an extension, or None."""
    position = 0
    found = None
    while position < len(extension):
        tag, position = read_ue7(extension, position)
        size, position = read_ue7(extension, position)
        block = extension[position : position + size]
        position += size
        if position > len(extension):
            raise BitstreamError("BPG: a block of extension data is longer than the extension.")
        if tag == _DIGEST_TAG:
            found = block
    return found


def _read_parameters(body: bytes, header: BPGHeader) -> tuple[CodingParameters, bytes]:
    position = 0
    coded = b""
    for _ in range(2 if header.alpha else 1):  # the alpha plane's parameters come first
        size, position = read_ue7(body, position)
        coded = body[position : position + size]
        position += size
    if position >= len(body):
        raise BitstreamError("BPG: the stream ends inside its HEVC header.")
    parameters = CodingParameters.from_bpg(coded)
    parameters.check(header.bit_depth)
    return parameters, body[position:]
