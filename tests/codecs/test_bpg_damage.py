"""Damaged BPG files: an error or a picture of the right size, never a crash or a hang."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from vcm.codecs import BPGCodec
from vcm.errors import BitstreamError

Picture = Callable[..., npt.NDArray[np.uint8]]

NUM_CORRUPTIONS = 1000
LIMIT_S = 5.0


def corrupt(stream: bytes, rng: np.random.Generator) -> bytes:
    """Flip a bit, overwrite, zero, insert or remove some bytes."""
    while True:
        damaged = bytearray(stream)
        position, length = rng.integers(len(stream)), rng.integers(1, 24)
        kind = rng.integers(6)
        if kind == 0:
            damaged[position] ^= 1 << rng.integers(8)
        elif kind == 1:
            damaged[position : position + length] = rng.bytes(length)
        elif kind == 2:
            damaged[position : position + length] = bytes(len(damaged[position : position + length]))
        elif kind == 3:
            damaged[position:position] = rng.bytes(length)
        elif kind == 4:
            del damaged[position : position + length]
        else:
            damaged[rng.integers(min(40, len(stream)))] = rng.integers(256)
        if damaged != stream:
            return bytes(damaged)


def streams(codec: BPGCodec, pixels: Picture) -> list[bytes]:
    return [
        codec.encode_array(pixels(*size, seed)) for seed, size in enumerate([(9, 11), (64, 80), (160, 200)])
    ]


@pytest.mark.parametrize("chroma", ["420", "444"])
def test_no_corruption_crashes_or_hangs(chroma: str, pixels: Picture) -> None:
    rng = np.random.default_rng(0)
    codec = BPGCodec(30, chroma=chroma, preset="fast")
    originals = streams(codec, pixels)
    num_refused = 0
    for index in range(NUM_CORRUPTIONS):
        damaged = corrupt(originals[index % len(originals)], rng)
        start = time.perf_counter()
        try:
            decoded = codec.decode_array(damaged)
        except BitstreamError:
            num_refused += 1
        else:
            assert decoded.dtype == np.uint8
            assert decoded.ndim == 3
        assert time.perf_counter() - start < LIMIT_S, damaged.hex()
    assert num_refused > NUM_CORRUPTIONS // 10


def test_with_the_integrity_hash_every_corruption_is_noticed(pixels: Picture) -> None:
    rng = np.random.default_rng(1)
    codec = BPGCodec(30, preset="fast", integrity_hash=True)
    originals = streams(codec, pixels)
    for index in range(NUM_CORRUPTIONS):
        with pytest.raises(BitstreamError):
            codec.decode_array(corrupt(originals[index % len(originals)], rng))


def test_the_integrity_hash_is_checked_by_whoever_reads(pixels: Picture) -> None:
    stream = BPGCodec(30, preset="fast", integrity_hash=True).encode_array(pixels(40, 40))
    plain = BPGCodec(30, preset="fast").encode_array(pixels(40, 40))
    assert 0 < len(stream) - len(plain) <= 16
    damaged = bytearray(stream)
    damaged[-20] ^= 1
    with pytest.raises(BitstreamError, match="integrity hash does not match"):
        BPGCodec().decode_array(bytes(damaged))
    with pytest.raises(BitstreamError, match="no integrity hash"):
        BPGCodec(integrity_hash=True).decode_array(plain)


@pytest.mark.parametrize("integrity_hash", [False, True])
def test_no_truncation_decodes_in_silence(integrity_hash: bool, pixels: Picture) -> None:
    codec = BPGCodec(30, preset="fast", integrity_hash=integrity_hash)
    small, *bigger = streams(codec, pixels)
    rng = np.random.default_rng(2)
    cuts = [(small, length) for length in range(len(small))]
    for stream in bigger:
        lengths = [*range(60), *rng.integers(0, len(stream), 150), *range(len(stream) - 20, len(stream))]
        cuts += [(stream, length) for length in lengths]
    for stream, length in cuts:
        with pytest.raises(BitstreamError):
            codec.decode_array(stream[:length])
