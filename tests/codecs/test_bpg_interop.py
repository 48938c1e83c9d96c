"""BPG files that vcm writes, and files of every kind that it reads, against libbpg's own decoder."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from vcm.codecs import BPGCodec
from vcm.codecs.bpg.bits import read_ue7
from vcm.codecs.bpg.colour import ColourSpace, rgb_to_planes
from vcm.codecs.bpg.container import BPGHeader, write_file
from vcm.codecs.bpg.hevc import PRESETS, encode_picture

Pixels = npt.NDArray[np.uint8]
Decode = Callable[..., list[Pixels | str]]
Picture = Callable[..., Pixels]

SIZES = [
    (1, 1), (1, 2), (2, 1), (3, 3), (1, 50), (50, 1), (7, 9), (8, 8), (9, 8), (8, 9), (15, 17), (16, 16),
    (17, 16), (24, 8), (31, 33), (40, 24), (64, 64), (65, 63), (66, 130), (100, 70), (129, 97), (200, 264),
    (1, 5000), (5000, 1),
]  # fmt: skip


def assert_same(codec: BPGCodec, streams: list[bytes], pictures: list[Pixels | str]) -> None:
    assert len(streams) == len(pictures)
    for index, (stream, picture) in enumerate(zip(streams, pictures, strict=True)):
        assert not isinstance(picture, str), (index, picture)
        np.testing.assert_array_equal(codec.decode_array(stream), picture, err_msg=str(index))


def test_what_vcm_writes_decodes_bit_identically_in_libbpg(libbpg_decode: Decode, pixels: Picture) -> None:
    preset = itertools.cycle(PRESETS)
    convention = itertools.cycle(("rate", "x265", "jctvc"))
    quality = itertools.cycle((37, 0, 51, 22, 30, 45, 12))
    streams = []
    for seed, (size, chroma) in enumerate(itertools.product(SIZES, ("420", "422", "444"))):
        options = {"chroma": chroma, "preset": next(preset), "qp_convention": next(convention)}
        codec = BPGCodec(next(quality), integrity_hash=seed % 5 == 0, **options)
        streams.append(codec.encode_array(pixels(*size, seed)))
    for q in range(52):
        codec = BPGCodec(q, chroma=("420", "422", "444")[q % 3], preset="fast", qp_convention="jctvc")
        streams.append(codec.encode_array(pixels(33, 50, q)))
    assert len(streams) >= 100
    assert_same(BPGCodec(), streams, libbpg_decode(streams))


def test_lossless_gives_the_pixels_back_here_and_in_libbpg(libbpg_decode: Decode, pixels: Picture) -> None:
    codec = BPGCodec(chroma="444", lossless=True, preset="medium")
    originals = [pixels(*size, seed) for seed, size in enumerate(SIZES)]
    originals.append(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
    streams = [codec.encode_array(original) for original in originals]
    for original, stream, picture in zip(originals, streams, libbpg_decode(streams), strict=True):
        np.testing.assert_array_equal(picture, original)
        np.testing.assert_array_equal(codec.decode_array(stream), original)


def planes_of(rgb: Pixels, chroma_format: int, bit_depth: int, seed: int) -> list[npt.NDArray[np.uint16]]:
    """Planes of `bit_depth` bits with something in their lowest ones."""
    planes = rgb_to_planes(rgb, max(chroma_format, 1), ColourSpace.BT601)[: 1 if chroma_format == 0 else 3]
    if bit_depth == 8:
        return planes
    rng = np.random.default_rng(seed)
    low = 1 << bit_depth - 8
    return [
        (plane.astype(np.uint16) * low + rng.integers(0, low, plane.shape)).astype(np.uint16)
        for plane in planes
    ]


@pytest.mark.parametrize("bit_depth", [8, 10, 12])
def test_every_kind_of_still_picture_reads_as_in_libbpg(
    bit_depth: int, libbpg_decode: Decode, pixels: Picture
) -> None:
    kinds = [(0, False), (1, False), (1, True), (2, False), (2, True), (3, False)]
    streams = []
    for seed, ((chroma_format, cosited), space, limited, size) in enumerate(
        itertools.product(kinds, ColourSpace, (False, True), ((33, 47), (1, 1), (40, 66)))
    ):
        if (space is ColourSpace.RGB and chroma_format != 3) or (chroma_format == 0 and space):
            continue
        noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        rgb = noise if seed % 2 else pixels(*size, seed)
        picture = encode_picture(
            planes_of(rgb, chroma_format, bit_depth, seed),
            chroma_format=chroma_format,
            qp=10,
            preset="ultrafast",
            lossless=False,
            bit_depth=bit_depth,
        )
        header = BPGHeader(
            size[1],
            size[0],
            chroma_format,
            cosited=cosited,
            bit_depth=bit_depth,
            colour_space=space,
            limited_range=limited,
        )
        streams.append(write_file(header, picture.parameters, picture.nals, digest=False))
    assert len(streams) > 100
    assert_same(BPGCodec(), streams, libbpg_decode(streams, decoder="bpgdec.js"))


@pytest.mark.parametrize("premultiplied", [False, True])
def test_colour_comes_out_of_a_file_with_opacity(
    premultiplied: bool, libbpg_decode: Decode, pixels: Picture
) -> None:
    rgb = pixels(37, 52)
    streams = []
    for opacity in (np.full((37, 52), 255, np.uint8), rgb[:, :, 0]):
        colour, alpha = (
            encode_picture(planes, chroma_format=f, qp=20, preset="fast", lossless=False)
            for planes, f in ((rgb_to_planes(rgb, 1, ColourSpace.BT601), 1), ([opacity], 0))
        )
        header = BPGHeader(52, 37, 1, alpha=True, premultiplied=premultiplied)
        nals = [bytes([nal[0], nal[1] | 8]) + nal[2:] for nal in alpha.nals]
        interleaved = tuple(nal for pair in zip(nals, colour.nals, strict=True) for nal in pair)
        plain = write_file(header, colour.parameters, interleaved, digest=False)
        streams.append(with_alpha_header(plain, header, alpha.parameters.to_bpg()))
    opaque, transparent = (BPGCodec().decode_array(stream) for stream in streams)
    np.testing.assert_array_equal(opaque, transparent)
    libbpg = libbpg_decode(streams)
    np.testing.assert_array_equal(opaque, libbpg[0])
    if not premultiplied:
        np.testing.assert_array_equal(transparent, libbpg[1])


def with_alpha_header(stream: bytes, header: BPGHeader, alpha_header: bytes) -> bytes:
    """Put the opacity plane's `hevc_header` before the colour's; sizes need one byte here."""
    assert max(header.width, header.height, len(alpha_header)) < 128
    _, body = read_ue7(stream, 8)
    return stream[:8] + b"\x00" + bytes([len(alpha_header)]) + alpha_header + stream[body:]
