"""Encoder-side search of learned codecs: better streams for the same decoder."""

import json

import pytest
import torch

from vcm.codecs import LearnedCodec, SlimmableFeatureCodec
from vcm.codecs.learned.container import read_stream
from vcm.codecs.learned.effort import Effort
from vcm.errors import ArgumentError, WeightsError
from vcm.metrics.distortion import ms_ssim
from vcm.nn.layers import pad_to_multiple
from vcm.nn.slimmable import (
    FeatureMap,
    LatentScalable,
    LatentSearch,
    SlimmableFactorized,
    SlimmableHyperprior,
    load_network,
    save_network,
)
from vcm.weights import SLIMMABLE_YOLOV3_TINY, shipped

KINDS = {
    "factorized": (SlimmableFactorized, {}),
    "scalable": (LatentScalable, {}),
    "hyperprior": (SlimmableHyperprior, {}),
    "means": (SlimmableHyperprior, {"means": True, "qualities": 3}),
}
LMBDA = 0.002


def make(kind, seed=0):
    torch.manual_seed(seed)
    build, settings = KINDS[kind]
    network = build(
        {"detection": 4, "reconstruction": 6}, features={"detection": FeatureMap(3, 8)}, **settings
    )
    return network.eval()


def image(height=48, width=80, seed=0):
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, generator=generator)
    large = torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear")[0]
    return (255 * large).round().to(torch.uint8)


def cost(pixels, codec, data):
    """Real bits a pixel, and the error that a decoder sees."""
    error = (codec.decode(data).float() - pixels.float()).square().mean()
    return 8 * len(data) / pixels[0].numel() + LMBDA * float(error)


@pytest.fixture(scope="module")
def trained():
    """vcm's own model: what a search does to real streams, an untrained network does not show."""
    return load_network(shipped(SLIMMABLE_YOLOV3_TINY))


def test_a_search_gives_better_streams_of_the_same_form_each_time_the_same(trained):
    pixels = image(96, 128)
    plain = LearnedCodec(3, model=trained)
    searching = LearnedCodec(3, model=trained, effort=10, lmbda=LMBDA)
    data, before = searching.encode(pixels), plain.encode(pixels)
    assert data == searching.encode(pixels)
    assert read_stream(data).header == read_stream(before).header
    assert cost(pixels, plain, data) < 0.98 * cost(pixels, plain, before)
    assert torch.equal(plain.decode(data), searching.decode(data))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_can_be_searched_and_decodes(kind):
    network, pixels = make(kind), image()
    plain, searching = LearnedCodec(model=network), LearnedCodec(model=network, effort=4, lmbda=LMBDA)
    data = searching.encode(pixels)
    assert data == searching.encode(pixels)
    assert plain.decode(data).shape == pixels.shape
    assert LearnedCodec(model=network, effort=0, lmbda=LMBDA).encode(pixels) == plain.encode(pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_a_search_is_never_worse_by_its_own_measure(kind):
    network = make(kind)
    for seed in range(3):
        pixels = image(33, 41, seed)
        x = pad_to_multiple(pixels[None].float() / 255, network.stride)

        def distortion(decoded, area, x=x):
            return (decoded - x[(..., *area)]).square().mean()

        encoder = network.at_width("reconstruction")
        with torch.no_grad():
            latents = encoder(x) if encoder.h_a else (encoder.g_a(x),)
            symbols = network.quantize(latents, "reconstruction")
        search = LatentSearch(network, "reconstruction", 1.0, distortion, 33 * 41, LMBDA / 5, 3)
        found = search.run(latents[0], symbols)

        def value(symbols, x=x):
            latent = torch.cat([symbols[n] for n in network.latent_sections("reconstruction")])
            y_hat = network.ungained(network.dequantize(symbols, "reconstruction"), "reconstruction", 1.0)
            error = (network.decode(y_hat, "reconstruction") - x).square().mean()
            bits = network.symbol_bits(latent, symbols, "reconstruction")
            return float(bits / (33 * 41) + LMBDA / 5 * 255**2 * error)

        with torch.no_grad():
            assert value(found) <= value(symbols) * (1 + 1e-6)


def test_estimated_bits_are_those_of_the_tables(trained):
    pixels = image(96, 128)
    x = pixels[None].float() / 255
    with torch.no_grad():
        symbols = trained.quantize(trained.at_width("reconstruction")(x), "reconstruction")
        bits = float(trained.symbol_bits(symbols["y"], symbols, "reconstruction"))
    *_, section = read_stream(LearnedCodec(3, model=trained).encode(pixels)).sections
    assert bits == pytest.approx(8 * len(section), rel=0.06)


@pytest.mark.parametrize(("size", "tiles"), [((1, 1), 1), ((1, 40), 1), ((560, 530), 4)])
def test_large_images_are_searched_in_tiles_and_small_ones_at_all(trained, size, tiles):
    pixels, told = image(*size), []
    plain = LearnedCodec(2, model=trained)
    codec = LearnedCodec(2, model=trained, effort=2, lmbda=LMBDA)
    data = codec.encode(pixels, lambda *steps: told.append(steps))
    assert plain.decode(data).shape == pixels.shape
    assert told == [(step + 1, 2 * tiles) for step in range(2 * tiles)]
    assert cost(pixels, plain, data) <= cost(pixels, plain, plain.encode(pixels)) + 8 / pixels[0].numel()


def test_a_search_by_ms_ssim_raises_it(trained):
    pixels = image(192, 176)
    plain = LearnedCodec(3, model=trained)
    by_mse, by_ssim = (
        LearnedCodec(3, model=trained, effort=8, lmbda=0.02, metric=metric).encode(pixels)
        for metric in ("mse", "ms_ssim")
    )
    before = ms_ssim(plain.decode(plain.encode(pixels)), pixels)
    assert ms_ssim(plain.decode(by_ssim), pixels) > before
    assert by_mse != by_ssim


def test_features_need_an_objective_and_get_nearer_by_it():
    network = make("means")
    x = image(64, 64)[None].float() / 255
    target = torch.nn.functional.avg_pool2d(x, 8)

    def objective(x):
        assert x.shape == (1, 3, 64, 64)
        return lambda decoded: (decoded.float() - target).square().mean()

    codec = SlimmableFeatureCodec(2, model=network, effort=15, lmbda=0.05, objective=objective)
    plain = SlimmableFeatureCodec(2, model=network)
    data, before = codec.encode(x, (50, 60)), plain.encode(x, (50, 60))
    assert read_stream(data).header == read_stream(before).header
    error, error_before = (float(objective(x)(plain.decode(stream)[0])) for stream in (data, before))
    bits, bits_before = (8 * len(stream) / 3000 for stream in (data, before))
    assert bits + 0.05 * 255**2 * error < bits_before + 0.05 * 255**2 * error_before
    with pytest.raises(ArgumentError, match="objective must be a task distance if effort is set"):
        SlimmableFeatureCodec(2, model=network, effort=1, lmbda=1).encode(x, (50, 60))
    for bad in (3, lambda x: 3):
        with pytest.raises(ArgumentError, match="objective must be a task distance if effort is set"):
            SlimmableFeatureCodec(2, model=network, effort=1, lmbda=1, objective=bad).encode(x, (50, 60))
    with torch.inference_mode():
        assert codec.encode(x.clone(), (50, 60)) == data
        images = LearnedCodec(2, model=network, effort=2, lmbda=0.05)
        found = images.encode(image(64, 64).clone())
    assert found == images.encode(image(64, 64))


@pytest.mark.parametrize("effort", [-1, 1.5, True, "3", 10_001, None])
def test_efforts_that_are_none_are_told(effort):
    with pytest.raises(ArgumentError, match="effort must be a whole number from 0 to 10000"):
        LearnedCodec(model=make("means"), effort=effort, lmbda=1)


@pytest.mark.parametrize("lmbda", [0, -1, float("nan"), float("inf"), "1"])
def test_weights_that_are_none_are_told(lmbda):
    with pytest.raises(ArgumentError, match="lmbda must be a number above 0"):
        LearnedCodec(model=make("means"), effort=1, lmbda=lmbda)


def test_the_weight_comes_from_the_models_note(tmp_path):
    network = make("means")
    save_network(network, tmp_path / "plain.safetensors")
    with pytest.raises(ArgumentError, match=r"lmbda must be set, because this model's file records no λ"):
        LearnedCodec(model=tmp_path / "plain.safetensors", effort=1)
    LearnedCodec(model=tmp_path / "plain.safetensors")
    note = {
        "lmbda": {"reconstruction": 0.01},
        "quality_scales": [0.25, 1, 4],
        "guides": {"detection": "pool"},
    }
    save_network(network, tmp_path / "noted.safetensors", training=json.dumps(note))
    for model in (tmp_path / "noted.safetensors", load_network(tmp_path / "noted.safetensors")):
        lmbdas = [LearnedCodec(q, model=model, effort=1).settings()["lmbda"] for q in (1, 1.5, 2, 3)]
        assert lmbdas == pytest.approx([0.0025, 0.005, 0.01, 0.04])
    assert SlimmableFeatureCodec(model=tmp_path / "noted.safetensors").training.guides == ("pool",)
    for damaged in (
        "[",
        "[]",
        '{"lmbda": 3}',
        '{"lmbda": {"reconstruction": "x"}}',
        '{"lmbda": {"reconstruction": -1}}',
    ):
        save_network(network, tmp_path / "damaged.safetensors", training=damaged)
        with pytest.raises(WeightsError, match="training settings in the model file are damaged"):
            LearnedCodec(model=tmp_path / "damaged.safetensors")


def test_settings_without_effort_are_as_before():
    assert not {"effort", "lmbda", "metric"} & set(LearnedCodec(model=make("means")).settings())
    settings = LearnedCodec(model=make("means"), effort=2, lmbda=0.5, metric="ms_ssim").settings()
    assert (settings["effort"], settings["lmbda"], settings["metric"]) == (2, 0.5, "ms_ssim")


def test_settings_of_features_say_all_that_decides_the_search(tmp_path):
    note = {"lmbda": {"detection": 0.01}, "quality_scales": [1, 1, 1], "guides": {"detection": ["pool"]}}
    save_network(make("means"), tmp_path / "noted.safetensors", training=json.dumps(note))
    settings = SlimmableFeatureCodec(model=tmp_path / "noted.safetensors", effort=2).settings()
    assert (settings["lmbda"], settings["guides"]) == (pytest.approx(0.0015), ["pool"])
    given = SlimmableFeatureCodec(model=tmp_path / "noted.safetensors", effort=2, lmbda=0.01).settings()
    assert given["lmbda"] == 0.01


def test_the_hyper_decoder_runs_once_in_each_direction(monkeypatch):
    network, pixels = make("means"), image()
    calls = []
    for part in network.integer_h_s:
        whole = part.forward
        monkeypatch.setattr(part, "forward", lambda *a, whole=whole: calls.append(1) or whole(*a))
    codec = LearnedCodec(model=network)
    data = codec.encode(pixels)
    assert len(calls) == 1
    codec.decode(data)
    assert len(calls) == 2


def test_interpolated_weights_lie_between(monkeypatch):
    effort = Effort(1, None, [1.0, 4.0, 16.0])
    assert effort.lmbda(2.5) == pytest.approx(8)
    assert effort.lmbda(3) == 16
    assert Effort(1, None, [2.0]).lmbda(1) == 2
