"""CodecPool: order, failures, times, interruption."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vcm.codecs
from vcm.codecs import (
    BPGCodec,
    Codec,
    CodecPool,
    Failure,
    JPEGCodec,
    RoundTrip,
    Timed,
    raise_failures,
)
from vcm.errors import ArgumentError, BitstreamError, CodecError
from vcm.types import QualityScale

Photo = Callable[..., Tensor]


class ScriptedCodec(Codec):
    """Writes an image's first value; waits or fails where that says so."""

    name = title = "scripted"
    suffix = ".bin"
    quality_scale = QualityScale("none", low=0, high=1, higher_is_better=True, default=0)

    def __init__(self, quality: float = 0) -> None:
        self.quality = quality

    def encode(self, image: Tensor) -> bytes:
        value = int(image.flatten()[0])
        if value == 13:
            raise ZeroDivisionError("unlucky")
        time.sleep(0.002 * (20 - value))
        return bytes([value])

    def decode(self, data: bytes) -> Tensor:
        if data == b"\x07":
            raise BitstreamError("a seven")
        size = 2 if data == b"\x05" else 4
        return torch.full((3, size, 4), data[0], dtype=torch.uint8)


def random_images(values: range) -> list[Tensor]:
    return [torch.full((3, 4, 4), value, dtype=torch.uint8) for value in values]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_order_is_kept_and_failures_lose_nothing_else(workers: int) -> None:
    with CodecPool(workers=workers) as pool:
        outcomes = pool.round_trip(ScriptedCodec(), random_images(range(20)))
    assert len(outcomes) == 20
    for index, outcome in enumerate(outcomes):
        if index in (5, 7, 13):
            assert isinstance(outcome, Failure)
            assert outcome.index == index
            assert outcome.stage == ("encode" if index == 13 else "decode")
        else:
            assert isinstance(outcome, RoundTrip)
            assert outcome.data == bytes([index])
            assert int(outcome.image[0, 0, 0]) == index
    assert isinstance(outcomes[13].error, ZeroDivisionError)
    assert "wrong shape" in str(outcomes[5].error)


def test_failures_raise_by_their_place() -> None:
    with CodecPool(workers=2) as pool:
        outcomes = pool.encode(ScriptedCodec(), random_images(range(10, 16)))
        fine = pool.encode(ScriptedCodec(), random_images(range(3)))
    with pytest.raises(
        CodecError, match=r"Image 3 of 6 \(counted from 0\) failed to encode: unlucky"
    ) as info:
        raise_failures(outcomes)
    assert isinstance(info.value.__cause__, ZeroDivisionError)
    assert raise_failures(fine) == fine


def test_encoding_and_decoding_apart_equal_the_codec(photo: Photo) -> None:
    codec = JPEGCodec(quality=40)
    images = [photo(40, 30 + index, index) for index in range(6)]
    with CodecPool(workers=2) as pool:
        encoded = raise_failures(pool.encode(codec, images))
        decoded = pool.decode(codec, [*(outcome.value for outcome in encoded), b"no JPEG"])
        trips = raise_failures(pool.round_trip(codec, images))
    for image, stream, result, trip in zip(images, encoded, decoded, trips, strict=False):
        assert isinstance(stream, Timed)
        assert isinstance(result, Timed)
        assert stream.value == codec.encode(image) == trip.data
        assert torch.equal(result.value, codec.decode(stream.value))
        assert torch.equal(result.value, trip.image)
        assert trip.num_bits == 8 * len(trip.data)
        assert min(stream.seconds, result.seconds, trip.encode_s, trip.decode_s) > 0
    assert isinstance(decoded[-1], Failure)
    assert isinstance(decoded[-1].error, BitstreamError)
    assert decoded[-1].index == 6


def test_former_names_of_outcomes_still_work(photo: Photo) -> None:
    with CodecPool(workers=1) as pool:
        (encoded,) = raise_failures(pool.encode(JPEGCodec(quality=40), [photo(16, 16, 0)]))
    with pytest.warns(DeprecationWarning, match=r"Timed\.data is deprecated. Use Timed\.value"):
        assert encoded.data == encoded.value
    with pytest.warns(DeprecationWarning, match=r"vcm\.codecs\.Encoded is deprecated"):
        assert vcm.codecs.Encoded is Timed


def test_times_are_each_images_own() -> None:
    with CodecPool(workers=4) as pool:
        slow, fast = raise_failures(
            pool.round_trip(ScriptedCodec(), [*random_images(range(1)), *random_images(range(19, 20))])
        )
    assert slow.encode_s >= 0.04
    assert fast.encode_s < slow.encode_s


def test_bpg_in_a_pool_gives_the_same_bytes(photo: Photo) -> None:
    codec = BPGCodec(35, preset="fast")
    images = [photo(48, 64, seed) for seed in range(8)]
    with CodecPool(workers=3) as pool:
        trips = raise_failures(pool.round_trip(codec, images))
    assert [trip.data for trip in trips] == [codec.encode(image) for image in images]


def test_an_empty_batch_is_no_failure() -> None:
    with CodecPool(workers=2) as pool:
        assert pool.round_trip(ScriptedCodec(), []) == []


def test_the_threads_end_with_the_pool() -> None:
    before = threading.active_count()
    with CodecPool(workers=3) as pool:
        pool.encode(ScriptedCodec(), random_images(range(15, 20)))
        assert threading.active_count() > before
    assert threading.active_count() == before


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_workers_out_of_range_are_refused(workers: object) -> None:
    with pytest.raises(ArgumentError, match="workers must be a whole number from 1"):
        CodecPool(workers=workers)


def test_an_interrupt_ends_a_pool_promptly(tmp_path: Path) -> None:
    """Ctrl-C while an external encoder hangs and hundreds of images wait."""
    encoder = tmp_path / "bpgenc"
    encoder.write_text("#!/bin/sh\nsleep 60\n")
    encoder.chmod(0o755)
    code = textwrap.dedent(f"""
        import torch
        from vcm.codecs import BPGSubprocessCodec, CodecPool
        images = [torch.zeros((3, 8, 8), dtype=torch.uint8)] * 300
        print("ready", flush=True)
        with CodecPool(workers=2) as pool:
            pool.encode(BPGSubprocessCodec(bpgenc={str(encoder)!r}), images)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.7)
        os.kill(process.pid, signal.SIGINT)
        start = time.perf_counter()
        _, error = process.communicate(timeout=20)
        assert time.perf_counter() - start < 5
        assert "KeyboardInterrupt" in error
        assert process.returncode != 0
    finally:
        process.kill()
        process.communicate()
