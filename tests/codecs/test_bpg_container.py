"""The BPG file format: headers, ranges, fixed vectors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vcm.codecs import BPGCodec
from vcm.codecs.bpg.bits import (
    BitReader,
    BitWriter,
    add_emulation_prevention,
    read_ue7,
    remove_emulation_prevention,
    write_ue7,
)
from vcm.codecs.bpg.container import BPGHeader, read_file, write_file
from vcm.codecs.bpg.sps import PCM, CodingParameters
from vcm.errors import BitstreamError

Picture = Callable[..., npt.NDArray[np.uint8]]

DATA = Path(__file__).with_name("data")
VECTORS = json.loads((DATA / "bpg_vectors.json").read_text())
PARAMETERS = CodingParameters(3, 3, 2, 3, 2, True, None, True, None)
BPGENC_HEADER = bytes.fromhex("425047fb20008343822c00039247404401c17181120000012801af")
BLACK = bytes.fromhex("425047fb2000202000039247404401c17181120000012601afe0e50abffba696")
"""32 × 32 black pixels by bpgenc, from a web page that asks browsers with it whether they show BPG."""


def test_reads_the_header_that_bpgenc_wrote() -> None:
    file = read_file(BPGENC_HEADER)
    assert file.header == BPGHeader(451, 300, 1)
    assert file.parameters == PARAMETERS
    assert file.stream == bytes.fromhex("4401c17181120000012801af")
    assert not file.has_length
    assert not file.has_digest
    assert PARAMETERS.to_bpg() == bytes.fromhex("924740")


def test_decodes_a_file_of_bpgenc() -> None:
    decoded = BPGCodec().decode_array(BLACK)
    assert decoded.shape == (32, 32, 3)
    assert not decoded.any()
    for length in range(len(BLACK) - 1):  # the last byte holds only padding
        with pytest.raises(BitstreamError):
            BPGCodec().decode_array(BLACK[:length])


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_fixed_vectors_decode_to_what_libbpg_made_of_them(vector: dict[str, str]) -> None:
    decoded = BPGCodec().decode_array((DATA / vector["name"]).read_bytes())
    assert list(decoded.shape) == vector["shape"]
    assert hashlib.sha256(decoded.tobytes()).hexdigest() == vector["sha256"]


@pytest.mark.parametrize(
    ("value", "coded"),
    [(0, "00"), (127, "7f"), (128, "8100"), (300, "822c"), (451, "8343"), (16384, "818000")],
)
def test_ue7(value: int, coded: str) -> None:
    assert write_ue7(value).hex() == coded
    assert read_ue7(bytes.fromhex(coded), 0) == (value, len(coded) // 2)


@pytest.mark.parametrize("coded", ["", "80", "8001", "81", "ffffffffff01"])
def test_ue7_refuses(coded: str) -> None:
    with pytest.raises(BitstreamError):
        read_ue7(bytes.fromhex(coded), 0)


@pytest.mark.parametrize(("value", "bits"), [(0, "1"), (1, "010"), (2, "011"), (3, "00100"), (7, "0001000")])
def test_exp_golomb(value: int, bits: str) -> None:
    """The table of ITU-T H.265, 9.2."""
    coded = int(bits.ljust(8, "0"), 2).to_bytes(1, "big")
    assert BitWriter().ue(value).to_bytes() == coded
    assert BitReader(coded).ue() == value


def test_emulation_prevention() -> None:
    plain = bytes.fromhex("0000000000010000030000ff00")
    guarded = add_emulation_prevention(plain)
    assert guarded == bytes.fromhex("00000300000300010000030300 00ff00".replace(" ", ""))
    assert remove_emulation_prevention(guarded) == plain


@pytest.mark.parametrize(
    "parameters",
    [
        PARAMETERS,
        CodingParameters(4, 0, 2, 2, 0, False, None, False, None),
        CodingParameters(
            3, 2, 2, 3, 3, False, PCM(8, 7, 3, 2, True), True, (False,) * 5 + (True,) + (False,) * 3
        ),
    ],
)
def test_coding_parameters_survive_the_header(parameters: CodingParameters) -> None:
    parameters.check(8)
    assert CodingParameters.from_bpg(parameters.to_bpg()) == parameters


@pytest.mark.parametrize(
    "change",
    [
        {"log2_min_cb": 7},
        {"log2_diff_cb": 4},
        {"log2_diff_cb": 0},
        {"log2_min_tb": 3},
        {"log2_diff_tb": 4},
        {"max_depth_intra": 5},
        {"pcm": PCM(9, 8, 3, 0, False)},
        {"pcm": PCM(8, 8, 3, 3, False)},
        {"range_extension": (False, False, True) + (False,) * 6},  # implicit_rdpcm
    ],
)
def test_coding_parameters_out_of_range_are_refused(change: dict[str, object]) -> None:
    parameters = dataclasses.replace(PARAMETERS, **change)
    stream = write_file(BPGHeader(16, 16, 1), parameters, (b"\x44\x01\xc1", b"\x28\x01\xaf"), digest=False)
    with pytest.raises(BitstreamError):
        BPGCodec().decode_array(stream)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, 0x43, "magic"),
        (4, 6 << 5, "pixel_format"),
        (4, 0x20 | 3, "got 11"),
        (4, 0x20 | 8, "got 16"),
        (5, 5 << 4, "color_space"),
        (5, 1 << 4, "4:4:4"),
        (5, 1, "animation"),
        (5, 4, "CMYK"),
        (6, 0, "pixels"),
        (6, 0x80, "0x80"),
        (9, 0, "header is cut short"),
    ],
)
def test_header_fields_out_of_range_are_refused(position: int, value: int, message: str) -> None:
    damaged = bytearray(BLACK)
    damaged[position] = value
    with pytest.raises(BitstreamError, match=message):
        BPGCodec().decode_array(bytes(damaged))


def test_a_forged_size_is_refused_before_anything_is_allocated() -> None:
    forged = BLACK[:6] + write_ue7(1 << 30) + write_ue7(1 << 30) + BLACK[8:]
    with pytest.raises(BitstreamError, match="1 to 67108864 pixels"):
        BPGCodec().decode_array(forged)


def test_extension_data_are_skipped() -> None:
    blocks = b"\x01\x03abc" + b"\x85\x01\x00"  # EXIF, and an unknown tag
    extended = BLACK[:5] + bytes([BLACK[5] | 8]) + BLACK[6:9] + write_ue7(len(blocks)) + blocks + BLACK[9:]
    np.testing.assert_array_equal(BPGCodec().decode_array(extended), BPGCodec().decode_array(BLACK))
    broken = extended.replace(b"\x01\x03abc", b"\x01\x7fabc")
    with pytest.raises(BitstreamError, match="extension"):
        BPGCodec().decode_array(broken)


def test_bytes_after_the_picture_are_refused(pixels: Picture) -> None:
    stream = BPGCodec(preset="fast").encode_array(pixels(9, 12))
    with pytest.raises(BitstreamError, match="1 bytes follow"):
        BPGCodec().decode_array(stream + b"\x00")
