"""Colour conversion in bands of rows: the same pixels, in little more memory than the picture's own."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from vcm.codecs import BPGCodec
from vcm.codecs.bpg import colour
from vcm.codecs.bpg.bits import read_ue7, write_ue7
from vcm.codecs.bpg.colour import ColourSpace, planes_to_rgb, rgb_to_planes
from vcm.errors import BitstreamError

Pixels = npt.NDArray[np.uint8]


@pytest.fixture
def rows_a_band(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`rows_a_band(count)`: from now on, for pictures of any width."""

    def put(count: int) -> None:
        monkeypatch.setattr(colour, "_BAND_PIXELS", 0)
        monkeypatch.setattr(colour, "_MIN_BAND_ROWS", count)

    return put


@pytest.mark.parametrize("chroma_format", [1, 2, 3])
@pytest.mark.parametrize("size", [(1, 1), (17, 6), (40, 9)])
def test_bands_change_nothing(
    chroma_format: int, size: tuple[int, int], rows_a_band: Callable[[int], None]
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    rows_a_band(1000)
    whole = rgb_to_planes(rgb, chroma_format, ColourSpace.BT601)
    deep = [plane.astype(np.uint16) * 13 for plane in whole]
    options = {"chroma_format": chroma_format, "bit_depth": 12, "limited_range": True, "cosited": True}
    back, deep_back = planes_to_rgb(whole, chroma_format=chroma_format), planes_to_rgb(deep, **options)
    for count in (2, 4, 16):
        rows_a_band(count)
        for plane, expected in zip(rgb_to_planes(rgb, chroma_format, ColourSpace.BT601), whole, strict=True):
            np.testing.assert_array_equal(plane, expected)
        np.testing.assert_array_equal(planes_to_rgb(whole, chroma_format=chroma_format), back)
        np.testing.assert_array_equal(planes_to_rgb(deep, **options), deep_back)


def test_memory_stays_near_the_pictures_own() -> None:
    rgb = np.zeros((1500, 2000, 3), np.uint8)
    tracemalloc.start()
    try:
        planes = rgb_to_planes(rgb, 1, ColourSpace.BT601)
        _, encoding = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        deep = [plane.astype(np.uint16) for plane in planes]
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        planes_to_rgb(deep, chroma_format=1, bit_depth=12, limited_range=True)
        _, decoding = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert encoding < 1.5 * rgb.nbytes
    assert decoding - before < 1.8 * rgb.nbytes


@pytest.mark.parametrize("has_length", [True, False])
def test_a_few_bytes_that_claim_a_large_picture_are_refused_unread(
    has_length: bool, pixels: Callable[..., Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = BPGCodec(30, preset="fast").encode_array(pixels(24, 24))
    position = 6
    for _ in range(3):
        length, position = read_ue7(stream, position)
    sizes = write_ue7(8192) * 2 + write_ue7(length if has_length else 0)
    monkeypatch.setattr("vcm.codecs.bpg.hevc._run_decoder", lambda _: pytest.fail("decoded"))
    with pytest.raises(BitstreamError, match="cannot contain an image of 8192x8192"):
        BPGCodec().decode_array(stream[:6] + sizes + stream[position:])


@pytest.mark.parametrize("size", [(64, 64), (1024, 1024), (2048, 16), (9, 3000)])
def test_the_plainest_pictures_are_large_enough(size: tuple[int, int]) -> None:
    """Nothing takes fewer bytes than one colour at the highest QP."""
    rgb = np.full((*size, 3), 128, np.uint8)
    for preset in ("ultrafast", "veryslow"):
        codec = BPGCodec(51, preset=preset)
        assert codec.decode_array(codec.encode_array(rgb)).shape == rgb.shape
