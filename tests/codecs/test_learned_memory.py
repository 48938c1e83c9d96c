"""Memory of learned codecs: pieces of bounded size give the same bytes and the same images."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from vcm.nn import coder
from vcm.nn.coder import CodingTable, decode_symbols, encode_symbols

TABLE = CodingTable([[0, 100, 60000, 65000, 65536], [0, 30000, 65530, 65536]], [5, 4], [-1, 0])

MEASURE = """
import dataclasses, sys, time
from pathlib import Path
import torch
from vcm.codecs import LearnedCodec
from vcm.codecs.learned.container import read_stream, write_stream
from vcm.errors import BitstreamError
from vcm.nn.slimmable import load_network
from vcm.weights import shipped

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024

def forget():
    Path("/proc/self/clear_refs").write_text("5")

codec = LearnedCodec(model=load_network(shipped("slimmable_yolov3_tiny")))
generator = torch.Generator().manual_seed(0)
before = peak()
side = int(sys.argv[2])
if sys.argv[1] == "claim":
    stream = read_stream(codec.encode((torch.rand(3, 150, 150, generator=generator) * 255).to(torch.uint8)))
    header = dataclasses.replace(stream.header, size=(side, side), coded_size=(side, side))
    data = write_stream(header, [bytes(26000), stream.sections[1]])
    forget()
    start = time.process_time()
    try:
        codec.decode(data)
    except BitstreamError as error:
        assert "symbols need" in str(error), error
        print(len(data), peak() - before, time.process_time() - start)
else:
    small = torch.rand(1, 3, side // 8, side // 8, generator=generator)
    image = torch.nn.functional.interpolate(small, size=(side, side), mode="bilinear")[0]
    image = (image * 255).to(torch.uint8)
    forget()
    data = codec.encode(image)
    encoding = peak() - before
    forget()
    assert codec.decode(data).shape == image.shape
    print(encoding, peak() - before)
"""


@pytest.mark.parametrize("count", [1, 3, 4, 5, 99, 100, 101, 1000])
def test_chunks_change_no_byte(count, monkeypatch):
    generator = torch.Generator().manual_seed(count)
    symbols = torch.randint(-3, 5, (count, 1, 1), generator=generator).float()
    symbols[::50] = 70000
    rows = torch.randint(0, 2, (count, 1, 1), generator=generator, dtype=torch.int32)
    rows[-1] = 1
    whole = encode_symbols(symbols, rows, TABLE)
    for chunk in (1, 7, 100):
        monkeypatch.setattr(coder, "_CHUNK", chunk)
        assert encode_symbols(symbols, rows, TABLE) == whole
        assert torch.equal(decode_symbols(whole, rows, TABLE), symbols)


def measured(*arguments):
    command = [sys.executable, "-W", "ignore", "-c", MEASURE, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return [float(word) for word in done.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="measured in /proc")
def test_a_large_image_takes_memory_for_pieces():
    """Of 1536 x 1536 pixels; in one piece it took 550 MB."""
    encoding, decoding = measured("image", 1536)
    assert encoding < 440
    assert decoding < 500


@pytest.mark.skipif(sys.platform != "linux", reason="measured in /proc")
def test_a_claim_of_67_megapixels_takes_neither_memory_nor_time():
    size, peak, seconds = measured("claim", 8192)
    assert size < 30_000
    assert peak < 600
    assert seconds < 5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measured in /proc")
def test_a_very_large_image_takes_no_gigabytes():
    for peak in measured("image", 4096):
        assert peak < 1500
