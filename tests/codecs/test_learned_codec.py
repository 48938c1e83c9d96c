"""Networks as codecs: symbols, bytes, and what can go wrong with them."""

import copy
import functools
import random

import pytest
import torch

from vcm.codecs import CodecPool, LearnedCodec, RoundTrip, SlimmableFeatureCodec
from vcm.codecs.learned.container import read_stream
from vcm.errors import ArgumentError, BitstreamError, CodecError
from vcm.nn.coder import CodingTable, decode_symbols, encode_symbols
from vcm.nn.slimmable import (
    FeatureMap,
    LatentScalable,
    SlimmableFactorized,
    SlimmableHyperprior,
)
from vcm.nn.tiling import in_tiles

NARROW, FULL = 6, 10
LATENTS = {"detection": 7, "reconstruction": 12}
MEANS = functools.partial(SlimmableHyperprior, latents=LATENTS, qualities=4, means=True)
LAYERED = functools.partial(LatentScalable, latents=LATENTS, qualities=3)
KINDS = (SlimmableFactorized, SlimmableHyperprior, LatentScalable, MEANS, LAYERED)
NAMES = (*(kind.__name__ for kind in KINDS[:3]), "means", "layered")


def make(kind, seed=0, gain=1.0):
    """A two-task network whose latents, and with a hyperprior their scales, are spread out."""
    torch.manual_seed(seed)
    network = kind({"detection": NARROW, "reconstruction": FULL}, features={"detection": FeatureMap(5, 8)})
    with torch.no_grad():
        for conv in network.g_a.convs:
            conv.weight *= gain
        if isinstance(network, SlimmableHyperprior):
            for conv in (*network.h_a.convs, *network.h_s.deconvs):
                conv.weight *= 3
            network.h_s.deconvs[2].bias += 1
    return network.eval()


@pytest.fixture(params=KINDS, ids=NAMES)
def network(request):
    return make(request.param)


def random_image(height, width, seed=0):
    """Smooth shapes and some noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    noise = 0.05 * torch.randn(3, height, width, generator=generator)
    return ((smooth + noise).clamp(0, 1) * 255).to(torch.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (15, 17), (16, 16), (64, 64), (65, 129), (300, 40)])
def test_images_of_any_size_come_back_in_that_size(network, size):
    codec = LearnedCodec(model=network)
    image = random_image(*size)
    decoded = codec.decode(codec.encode(image))
    assert decoded.shape == image.shape
    assert decoded.dtype == torch.uint8


def test_the_decoded_image_is_what_the_network_says(network):
    codec = LearnedCodec(model=network)
    image = random_image(128, 192)
    expected = network(image[None].float() / 255, "reconstruction").x_hat[0]
    expected = (expected.clamp(0, 1) * 255).round().to(torch.uint8)
    difference = (codec.decode(codec.encode(image)).int() - expected.int()).abs()
    assert difference.max() <= 1


def test_features_come_back_as_the_network_says(network):
    codec = SlimmableFeatureCodec(model=network)
    x = random_image(96, 160)[None].float() / 255
    features, size = codec.decode(codec.encode(x, (480, 800)))
    assert size == (480, 800)
    padded = torch.nn.functional.pad(x, (0, -160 % network.stride, 0, -96 % network.stride), mode="replicate")
    torch.testing.assert_close(features, network(padded, "detection").x_hat[..., :12, :20])


def symbols_of(network, image, task):
    """What the encoder codes, and with which rows."""
    latents = network.at_width(task)(image)
    symbols = network.quantize(latents, task)
    size = tuple(image.shape[-2:])
    return {
        name: (symbols[name], network.indexes(task, name, symbols, size)) for name in network.sections(task)
    }


@pytest.mark.parametrize("models", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_decoded_symbols_equal_encoded_ones(models):
    """Encoded on one thread in float32; decoded on two by a copy whose other layers are bfloat16."""
    threads = torch.get_num_threads()
    rows = set()
    try:
        for seed in range(models):
            kind = KINDS[seed % 2] if seed % 10 else LatentScalable
            rng = random.Random(seed)
            network = make(kind, seed, gain=rng.choice([1.0, 4.0, 8.0]))
            task = network.tasks[seed % 2]
            network.update()
            receiver = copy.deepcopy(network).to(torch.bfloat16)
            side = rng.choice([64, 128])
            image = random_image(side, 64, seed)[None].float() / 255
            torch.set_num_threads(1)
            coded = symbols_of(network, image, task)
            tables = {name: CodingTable.of(network.table(task, name)) for name in coded}
            data = {name: encode_symbols(*pair, tables[name]) for name, pair in coded.items()}
            torch.set_num_threads(2)
            decoded = {}
            for name in receiver.sections(task):
                indexes = receiver.indexes(task, name, decoded, (side, 64))
                rows.update(indexes.unique().tolist())
                table = CodingTable.of(receiver.table(task, name))
                decoded[name] = decode_symbols(data[name], indexes, table)
                assert torch.equal(decoded[name], coded[name][0]), seed
    finally:
        torch.set_num_threads(threads)
    assert len(rows) > 30


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_streams_pass_between_cpu_and_cuda(kind):
    for seed in range(20):
        network = make(kind, seed)
        network.update()
        here, there = network, copy.deepcopy(network)
        image = random_image(200, 150, seed)
        cpu, cuda = LearnedCodec(model=here), LearnedCodec(model=there, device="cuda")
        for sender, receiver in ((cpu, cuda), (cuda, cpu)):
            data = sender.encode(image)
            difference = (receiver.decode(data).int() - sender.decode(data).int()).abs()
            assert difference.max() <= 1


def fit_scales(network, task):
    """What training does to a hyperprior: scales that fit the latent."""
    x = random_image(256, 256, 4)[None].float() / 255
    optimizer = torch.optim.Adam([*network.h_a.parameters(), *network.h_s.parameters()], lr=3e-3)
    for _ in range(100):
        bits = sum(-likelihoods.log2().sum() for likelihoods in network(x, task).likelihoods.values())
        optimizer.zero_grad()
        (bits / x.numel()).backward()
        optimizer.step()


@pytest.mark.parametrize("task", ["detection", "reconstruction"])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_equal_the_estimate_within_one_percent(kind, task):
    network = make(kind)
    if isinstance(network, SlimmableHyperprior):
        fit_scales(network, task)
    image = random_image(512, 512, 3)[None].float() / 255
    with torch.no_grad():
        likelihoods = network(image, task).likelihoods
    estimate = sum(-values.log2().sum() for values in likelihoods.values())
    data = SlimmableFeatureCodec(model=network).encode(image, (512, 512)) if task == "detection" else None
    if data is None:
        data = LearnedCodec(model=network).encode((image[0] * 255).round().to(torch.uint8))
    stream = read_stream(data)
    assert 8 * sum(map(len, stream.sections)) == pytest.approx(float(estimate), rel=0.01)
    assert stream.overhead <= 30


@pytest.mark.parametrize("kind", [SlimmableFactorized, SlimmableHyperprior])
def test_the_narrow_encoder_is_a_slice(kind):
    """Weights that only the full width has do not change a byte of the narrow stream; others do."""
    network = make(kind)
    x = random_image(128, 128)[None].float() / 255
    before = SlimmableFeatureCodec(model=network).encode(x, (128, 128))
    full = LearnedCodec(model=network).encode(random_image(128, 128))
    changed = copy.deepcopy(network)
    with torch.no_grad():
        parts = [changed.g_a, *([changed.h_a, changed.h_s] if kind is SlimmableHyperprior else [])]
        for conv in (
            layer for part in parts for name, layer in part.named_modules() if hasattr(layer, "sliced")
        ):
            weight, bias = (t.clone() if t is not None else None for t in conv.sliced(0))
            conv.weight.normal_()
            conv.sliced(0)[0].copy_(weight)
            if bias is not None:
                conv.bias.normal_()
                conv.sliced(0)[1].copy_(bias)
        for gdn in changed.g_a.gdns:
            gdn.at[1].beta += 1
        for parameter in (
            *changed.entropy_bottlenecks[1].parameters(),
            *changed.decoders["reconstruction"].parameters(),
        ):
            parameter.add_(0.1)
    assert SlimmableFeatureCodec(model=changed).encode(x, (128, 128)) == before
    assert LearnedCodec(model=changed).encode(random_image(128, 128)) != full
    with torch.no_grad():
        changed.g_a.convs[1].weight[0, 0] += 1
    assert SlimmableFeatureCodec(model=changed).encode(x, (128, 128)) != before


def test_streams_of_other_models_widths_and_kinds_are_told(network):
    codec = LearnedCodec(model=network)
    features = SlimmableFeatureCodec(model=network)
    image = random_image(64, 64)
    data = codec.encode(image)
    with pytest.raises(BitstreamError, match="with another model"):
        LearnedCodec(model=make(type(network), seed=9)).decode(data)
    with pytest.raises(BitstreamError, match="this model for reconstruction, not for detection"):
        features.decode(data)
    with pytest.raises(BitstreamError, match="not a vcm stream but a JPEG file"):
        codec.decode(b"\xff\xd8\xff\xe0 and so on")
    with pytest.raises(ArgumentError, match="data must be bytes"):
        codec.decode("text")


def test_no_network_runs_on_a_damaged_stream(network, monkeypatch):
    codec = LearnedCodec(model=network)
    data = codec.encode(random_image(64, 80))
    for name in ("indexes", "dequantize", "decode"):
        monkeypatch.setattr(network, name, lambda *_: pytest.fail("ran"))
    rng = random.Random(1)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        with pytest.raises(BitstreamError):
            codec.decode(bytes(damaged[: rng.randint(0, len(data))] if rng.random() < 0.5 else damaged))


def test_latents_that_cannot_be_coded_are_told():
    network = make(SlimmableFactorized)
    with torch.no_grad():
        network.g_a.convs[3].weight.fill_(1e9)
    with pytest.raises(CodecError, match="is not properly trained"):
        LearnedCodec(model=network).encode(random_image(64, 64))
    with torch.no_grad():
        network.g_a.convs[3].weight.fill_(float("nan"))
    with pytest.raises(CodecError, match="latent has values up to nan"):
        LearnedCodec(model=network).encode(random_image(64, 64))


def test_sections_of_impossible_lengths_are_told():
    network = make(SlimmableFactorized)
    network.update()
    table = CodingTable.of(network.table("detection", "y"))
    with pytest.raises(BitstreamError, match="multiple of 4"):
        decode_symbols(b"12345", torch.zeros(1, 1, 1, dtype=torch.int32), table)


def test_large_symbols_are_coded_too():
    network = make(SlimmableFactorized)
    network.update()
    table = CodingTable.of(network.table("detection", "y"))
    symbols = torch.tensor([0.0, 1 << 20, -(1 << 20), 5000, -1]).view(1, 1, 5)
    indexes = torch.zeros(1, 1, 5, dtype=torch.int32)
    assert torch.equal(decode_symbols(encode_symbols(symbols, indexes, table), indexes, table), symbols)


def test_tiles_leave_no_seams():
    network = make(SlimmableFactorized)
    x = torch.rand(1, 3, 16 * 21, 16 * 34)
    encoder = network.at_width("reconstruction").g_a
    whole = encoder(x)
    tiled = in_tiles(encoder, x, tile=16 * 8, halo=16 * 4, scale=1 / 16)
    torch.testing.assert_close(tiled, whole, atol=1e-4, rtol=1e-4)
    decoder = network.decoders["reconstruction"]
    torch.testing.assert_close(
        in_tiles(decoder, whole, tile=8, halo=4, scale=16), decoder(whole), atol=1e-4, rtol=1e-4
    )
    too_narrow = in_tiles(encoder, x, tile=16 * 8, halo=0, scale=1 / 16)
    assert (too_narrow - whole).abs().max() > 0.01


def test_large_images_are_tiled(monkeypatch):
    """Streams of tiled images decode to what untiled ones decode to, up to rounding."""
    from vcm.codecs.learned import streams

    network = make(SlimmableHyperprior)
    image = random_image(200, 330)
    codec = LearnedCodec(model=network)
    whole = codec.decode(codec.encode(image))
    monkeypatch.setattr(streams, "TILE", 8)
    tiled = codec.decode(codec.encode(image))
    assert (whole.int() - tiled.int()).abs().float().mean() < 0.05


def test_threads_share_a_codec(network):
    images = [random_image(40 + 3 * n, 70, n) for n in range(6)]
    codec = LearnedCodec(model=network)
    with CodecPool(workers=3) as pool:
        outcomes = pool.round_trip(codec, images)
    for image, outcome in zip(images, outcomes, strict=True):
        assert isinstance(outcome, RoundTrip)
        assert outcome.data == codec.encode(image)
