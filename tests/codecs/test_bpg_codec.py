"""BPGCodec's options, colour arithmetic and rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from torch import Tensor

from vcm.codecs import BPGCodec
from vcm.codecs.bpg.colour import ColourSpace, planes_to_rgb, rgb_to_planes
from vcm.codecs.bpg.container import read_file
from vcm.codecs.bpg.hevc import PRESETS
from vcm.errors import ArgumentError, BitstreamError

Pixels = npt.NDArray[np.uint8]
Picture = Callable[..., Pixels]


def psnr(a: Pixels, b: Pixels) -> float:
    return 10 * math.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_luma_and_chroma_are_bt601s(pixels: Picture) -> None:
    rgb = pixels(20, 30).astype(float)
    y = rgb @ [0.299, 0.587, 0.114]
    expected = [y, 128 + (rgb[..., 2] - y) / 1.772, 128 + (rgb[..., 0] - y) / 1.402]
    planes = rgb_to_planes(pixels(20, 30), 3, ColourSpace.BT601)
    for plane, reference in zip(planes, expected, strict=True):
        np.testing.assert_allclose(plane, np.clip(reference, 0, 255), atol=0.5001)


def test_chroma_is_filtered_as_the_taps_say() -> None:
    """Against the filter written out sample by sample, on a picture whose luma is constant in effect."""
    taps = [2, -4, -8, 17, 57, 57, 17, -8, -4, 2]
    rgb = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    _, full, _ = rgb_to_planes(rgb, 3, ColourSpace.BT601)
    _, halved, _ = rgb_to_planes(rgb, 2, ColourSpace.BT601)
    _, quartered, _ = rgb_to_planes(rgb, 1, ColourSpace.BT601)

    def across(row: npt.NDArray[np.int64], x: int) -> int:
        return sum(tap * int(row[min(max(2 * x + k - 4, 0), len(row) - 1)]) for k, tap in enumerate(taps))

    rows = [[across(row, x) for x in range(5)] for row in full.astype(int)]
    for y in range(6):
        for x in range(5):
            assert halved[y, x] == min(max((rows[y][x] + 64) >> 7, 0), 255)
    half_done = np.array([[(value + 1) >> 1 for value in row] for row in rows])
    for y in range(3):
        for x in range(5):
            assert quartered[y, x] == min(max((across(half_done[:, x], y) + (1 << 12)) >> 13, 0), 255)


@pytest.mark.parametrize("space", [ColourSpace.BT601, ColourSpace.RGB])
def test_colour_comes_back(space: ColourSpace, pixels: Picture) -> None:
    rgb = pixels(33, 47)
    back = planes_to_rgb(rgb_to_planes(rgb, 3, space), chroma_format=3, colour_space=space)
    assert np.abs(back.astype(int) - rgb).max() <= (0 if space is ColourSpace.RGB else 2)


def test_more_bytes_buy_a_better_picture(pixels: Picture) -> None:
    rgb = pixels(96, 128)
    points = []
    for quality in (45, 35, 25, 15):
        codec = BPGCodec(quality, chroma="444", preset="medium")
        data = codec.encode_array(rgb)
        points.append((len(data), psnr(codec.decode_array(data), rgb)))
    assert points == sorted(points)
    assert points[-1][1] > 40


@pytest.mark.parametrize(("convention", "offset"), [("rate", 2), ("x265", 3), ("jctvc", 0)])
def test_qp_conventions_differ_by_what_they_say(convention: str, offset: int, pixels: Picture) -> None:
    rgb = pixels(64, 64)
    shifted = BPGCodec(30, preset="fast", qp_convention=convention).encode_array(rgb)
    assert shifted == BPGCodec(30 - offset, preset="fast", qp_convention="jctvc").encode_array(rgb)
    lowest = BPGCodec(0, preset="fast", qp_convention=convention).encode_array(rgb)
    assert lowest == BPGCodec(0, preset="fast", qp_convention="jctvc").encode_array(rgb)


def test_bytes_do_not_depend_on_threads(pixels: Picture) -> None:
    pictures = [pixels(80 + 8 * seed, 120, seed) for seed in range(6)]
    codec = BPGCodec(32, preset="medium")
    alone = [codec.encode_array(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as executor:
        together = list(executor.map(codec.encode_array, pictures))
        decoded = list(executor.map(codec.decode_array, together))
    assert alone == together
    for picture, stream in zip(decoded, alone, strict=True):
        np.testing.assert_array_equal(picture, codec.decode_array(stream))


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (16, 16), (24, 24), (16, 5008), (1, 5000)])
def test_presets_take_all_sizes(preset: str, size: tuple[int, int], pixels: Picture) -> None:
    rgb = np.full((*size, 3), 77, np.uint8)
    decoded = BPGCodec(22, preset=preset).decode_array(BPGCodec(22, preset=preset).encode_array(rgb))
    assert decoded.shape == rgb.shape
    assert np.abs(decoded.astype(int) - 77).max() <= 3


@pytest.mark.parametrize("size", [(1, 16384), (16384, 3)])
def test_the_longest_sides(size: tuple[int, int]) -> None:
    rgb = np.zeros((*size, 3), np.uint8)
    codec = BPGCodec(40, preset="ultrafast")
    assert codec.decode_array(codec.encode_array(rgb)).shape == rgb.shape
    with pytest.raises(ArgumentError, match="at most 16384 pixels per side"):
        codec.encode_array(np.zeros((1, 16385, 3), np.uint8))


def test_the_file_states_its_length(photo: Callable[..., Tensor]) -> None:
    file = read_file(BPGCodec(preset="fast").encode(photo(20, 20)))
    assert file.has_length
    assert file.header.width == file.header.height == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quality": 52}, r"quality must be a whole number from 0 to 51 \(QP\); got 52"),
        ({"quality": -1}, "quality"),
        ({"quality": 30.5}, "quality"),
        ({"quality": True}, "quality"),
        ({"chroma": "411"}, "chroma must be one of '420', '422', '444'; got '411'"),
        ({"preset": "quick"}, "preset"),
        ({"qp_convention": "libbpg"}, "qp_convention"),
        ({"lossless": "yes"}, "lossless"),
        ({"lossless": True}, "Pass chroma='444'"),
        ({"integrity_hash": 1}, "integrity_hash"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        BPGCodec(**arguments)


def test_chroma_may_come_as_a_number_from_the_command_line() -> None:
    assert BPGCodec(chroma=444).settings()["chroma"] == "444"


def test_other_formats_are_refused(photo: Callable[..., Tensor]) -> None:
    for data in (b"", b"BPG", b"BPG\xfb", b"\x89PNG\r\n\x1a\n" + bytes(100), bytes(1000)):
        with pytest.raises(BitstreamError):
            BPGCodec().decode(data)
