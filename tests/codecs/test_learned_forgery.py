"""Streams made on purpose, their checksums right; and images at the edges of what is coded."""

import dataclasses

import pytest
import torch

import programs
from vcm.codecs import LearnedCodec, SlimmableFeatureCodec
from vcm.codecs.learned import streams
from vcm.codecs.learned.container import read_stream, write_stream
from vcm.errors import ArgumentError, BitstreamError
from vcm.nn.coder import CodingTable, decode_symbols, encode_symbols
from vcm.nn.slimmable import FeatureMap, LatentScalable, SlimmableFactorized, SlimmableHyperprior

KINDS = (SlimmableFactorized, SlimmableHyperprior, LatentScalable)
FLAT = CodingTable([[0, *range(256, 65537, 256)]], [257], [0])
"""255 values alike, and a rare one that stands for all others."""
ROW_0 = torch.zeros(1, 1, 1, dtype=torch.int32)


def make(kind, widths=(3, 4)):
    torch.manual_seed(0)
    tasks = dict(zip(("detection", "reconstruction"), widths, strict=True))
    network = kind(tasks, features={"detection": FeatureMap(2, 8)})
    with torch.no_grad():
        for conv in network.g_a.convs:
            conv.weight *= 4
    return network.eval()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def network(request):
    return make(request.param)


def random_image(height, width):
    return (torch.rand(3, height, width, generator=torch.Generator().manual_seed(1)) * 255).to(torch.uint8)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_few_symbols_do_not_overrun_the_encoders_buffer(count):
    table = CodingTable([[0, 1, 65535, 65536]], [4], [0])
    symbols = torch.tensor([0.0, 1, 70000, -5, 0])[:count].view(count, 1, 1)
    rows = torch.zeros(count, 1, 1, dtype=torch.int32)
    for _ in range(2000):  # a spoilt heap shows itself sooner or later
        data = encode_symbols(symbols, rows, table)
    assert torch.equal(decode_symbols(data, rows, table), symbols)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("widths", [(1, 2), (3, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_thin_images_and_thin_networks(kind, widths, size):
    network = make(kind, widths)
    image = random_image(*size)
    codec = LearnedCodec(model=network)
    assert codec.decode(codec.encode(image)).shape == image.shape
    features, original = SlimmableFeatureCodec(model=network).decode(
        SlimmableFeatureCodec(model=network).encode(image[None] / 255, size)
    )
    assert original == size
    assert features.shape == (1, 2, -(-size[0] // 8), -(-size[1] // 8))


@pytest.mark.parametrize("precision", [torch.float64, torch.bfloat16])
def test_networks_of_other_precisions_code_too(network, precision):
    image = random_image(70, 50)
    codec = LearnedCodec(model=network.to(precision))
    assert codec.decode(codec.encode(image)).shape == image.shape


def test_bytes_that_lead_a_decoder_astray_stay_within_bounds():
    """In a process of its own: CompressAI's decoder alone reads past the end here, and dies of it."""
    code = """
import torch
from vcm.nn.coder import CodingTable, decode_symbols
from vcm.errors import BitstreamError
rare = CodingTable([[0, 1, 65536]], [3], [0])
for data in (b"\\xff" * 400_000, bytes(8), bytes(range(256)) * 40):
    for count in (1, 1000, 300_000):
        try:
            decode_symbols(data, torch.zeros(1, 1, count, dtype=torch.int32), rare)
        except BitstreamError:
            pass
"""
    done = programs.run(["-W", "ignore", "-c", code], timeout=120)
    assert done.returncode == 0, done.stderr


def test_sections_that_cannot_hold_what_they_say_are_told_at_once():
    rows = ROW_0.expand(64, 1000, 100)
    with pytest.raises(BitstreamError, match="has 4000 bytes, and 6400000 symbols need at least 6400000"):
        decode_symbols(bytes(4000), rows, FLAT)
    with pytest.raises(BitstreamError, match="a multiple of 4 and at least 8"):
        decode_symbols(bytes(4), ROW_0, FLAT)


def test_symbols_beyond_what_is_coded_are_told():
    data = encode_symbols(torch.tensor([[[float(1 << 20)]]]), ROW_0, FLAT)
    shifted = CodingTable(FLAT.rows, FLAT.lengths, [1 << 20])
    with pytest.raises(BitstreamError, match="symbols beyond 1048576"):
        decode_symbols(data, ROW_0, shifted)


def forged(data, **changes):
    stream = read_stream(data)
    sections = changes.pop("sections", stream.sections)
    return write_stream(dataclasses.replace(stream.header, **changes), sections)


def test_forged_headers_are_told(network, monkeypatch):
    codec = LearnedCodec(model=network)
    data = codec.encode(random_image(60, 70))
    monkeypatch.setattr(network.decoders["reconstruction"], "forward", lambda *_: pytest.fail("ran"))
    for changes, message in (
        ({"size": (6000, 7000), "coded_size": (6000, 7000)}, "symbols need"),
        ({"size": (61, 70)}, "cannot be coded as"),
        ({"purpose": "detection"}, "its purpose is detection"),
        ({"channels": 5}, "5 channels in"),
        ({"sections": read_stream(data).sections * 2}, "sections, not"),
        ({"sections": tuple(b"" for _ in read_stream(data).sections)}, "has 0 bytes"),
    ):
        with pytest.raises(BitstreamError, match=message):
            codec.decode(forged(data, **changes))


@pytest.mark.parametrize("length", [0, 4, 13])
def test_a_last_section_that_nobody_encoded_is_told_before_the_first_is_decoded(network, length, monkeypatch):
    codec = LearnedCodec(model=network)
    data = codec.encode(random_image(60, 70))
    for worker in ("decode_symbols", "in_tiles"):
        monkeypatch.setattr(streams, worker, lambda *_, **__: pytest.fail("ran"))
    with pytest.raises(
        BitstreamError, match=f"has {length} bytes; the length must be a multiple of 4 and at least 8"
    ):
        codec.decode(forged(data, sections=(*read_stream(data).sections[:-1], bytes(length))))


@pytest.mark.parametrize("size", [(0, 5), (9000, 9000)])
def test_sizes_that_no_image_has_are_told(size):
    with pytest.raises(ArgumentError, match="size must be 1 to 67108864 pixels"):
        SlimmableFeatureCodec(model=make(SlimmableFactorized)).encode(torch.rand(1, 3, 8, 8), size)
