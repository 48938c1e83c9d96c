"""Latents of their own width, and one network for many qualities."""

import functools

import pytest
import torch
from compressai.models import FactorizedPrior

from vcm.codecs import LearnedCodec, SlimmableFeatureCodec
from vcm.codecs.learned.container import read_stream
from vcm.errors import ArgumentError, BitstreamError
from vcm.nn.gains import LatentGains, check_quality
from vcm.nn.slimmable import (
    FeatureMap,
    LatentScalable,
    SlimmableFactorized,
    SlimmableHyperprior,
    build_network,
    load_network,
    save_network,
)

WIDTHS = {"detection": 3, "reconstruction": 5}
LATENTS = {"detection": 6, "reconstruction": 9}
KINDS = {
    "factorized": SlimmableFactorized,
    "hyperprior": SlimmableHyperprior,
    "means": functools.partial(SlimmableHyperprior, means=True),
    "layered": LatentScalable,
}


def make(kind, qualities=3, seed=0):
    """A network whose gains differ from channel to channel."""
    torch.manual_seed(seed)
    features = {"detection": FeatureMap(2, 8)}
    network = kind(WIDTHS, features=features, channels=4, latents=LATENTS, qualities=qualities)
    with torch.no_grad():
        for conv in network.g_a.convs:
            conv.weight *= 3
        for each in network.latent_gains:
            each.logarithms += 0.3 * torch.randn_like(each.logarithms)
            each.inverse_logarithms += 0.3 * torch.randn_like(each.logarithms)
    return network.eval()


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def network(request):
    return make(request.param)


def test_a_wider_latent_is_compressais_m():
    torch.manual_seed(1)
    theirs = FactorizedPrior(5, 9).eval()
    ours = SlimmableFactorized({"reconstruction": 5}, latents={"reconstruction": 9}).eval()
    torch.nn.init.zeros_(theirs.g_a[0].bias)
    with torch.no_grad():
        for layer in theirs.g_a[::2]:
            layer.weight *= 4
    for number in range(4):
        state = theirs.g_a[2 * number].state_dict()
        ours.g_a.convs[number].load_state_dict({k: v for k, v in state.items() if (number, k) != (0, "bias")})
    for number in range(3):
        ours.g_a.gdns[number].at[0].load_state_dict(theirs.g_a[2 * number + 1].state_dict())
    ours.decoders["reconstruction"].load_state_dict(theirs.g_s.state_dict())
    ours.entropy_bottlenecks[0].load_state_dict(theirs.entropy_bottleneck.state_dict())
    x = torch.rand(2, 3, 64, 96)
    expected, got = theirs(x), ours(x, "reconstruction")
    assert expected["likelihoods"]["y"].std() > 0.001
    torch.testing.assert_close(got.x_hat, expected["x_hat"])
    torch.testing.assert_close(got.likelihoods["y"], expected["likelihoods"]["y"])


def test_the_latent_has_the_channels_that_were_asked_for(network):
    for task in network.tasks:
        y = network.at_width(task)(torch.rand(1, 3, 64, 64))[0]
        assert y.shape[1] == LATENTS[task]


def test_gains_are_folded_into_the_encoder_that_is_deployed(network):
    x = torch.rand(1, 3, 64, 80)
    for task in network.tasks:
        for quality in (1, 1.5, 3):
            latents = network.at_width(task, quality)(x)
            symbols = network.quantize(latents, task)
            y_hat = network.ungained(network.dequantize(symbols, task), task, quality)
            found, expected = network.decode(y_hat, task), network(x, task, quality).x_hat
            # Means are multiples of 2^-12 where streams are coded: now and then that moves a symbol by one.
            assert (found - expected).abs().mean() < 0.05 * expected.abs().mean()
        finest, coarsest = (network.at_width(task, quality)(x)[0] for quality in (3, 1))
        assert not torch.allclose(finest, coarsest)


def test_a_deployed_encoder_is_no_part_of_the_networks_graph(network):
    for task in network.tasks:
        encoder = network.at_width(task, 2)
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        assert all(parameter.is_leaf for parameter in encoder.parameters())
        encoder(torch.rand(1, 3, 64, 64))[0].numpy()


def test_channels_that_only_wider_tasks_have_do_not_change_a_narrow_fingerprint(network):
    before = network.fingerprint("detection")
    with torch.no_grad():
        network.gains_of("reconstruction").inverse_logarithms[:, LATENTS["detection"] :] += 1
    assert network.fingerprint("detection") == before


def test_a_higher_quality_spends_more_bits_and_comes_nearer():
    """With the gains that a new network starts with; their inverse is exact."""
    torch.manual_seed(0)
    network = SlimmableFactorized({"reconstruction": 24}, qualities=5).eval()
    x = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12), size=(96, 96), mode="bicubic").clamp(0, 1)
    y = network.g_a(x, 0).detach()
    errors, sizes = [], []
    for quality in (1, 2.25, 3, 5):
        y_hat = network.ungained(
            torch.round(network.gained(y, "reconstruction", quality)), "reconstruction", quality
        )
        errors.append(float((y_hat - y).pow(2).mean().detach()))
        sizes.append(len(LearnedCodec(quality, model=network).encode((x[0] * 255).to(torch.uint8))))
    assert errors == sorted(errors, reverse=True)
    assert sizes == sorted(sizes)
    assert errors[0] > 5 * errors[-1]


def test_gains_between_two_qualities_are_geometric_means():
    latent = LatentGains(2, 3)
    with torch.no_grad():
        latent.logarithms.copy_(torch.tensor([[0.0, 1.0], [2.0, -1.0], [4.0, 5.0]]))
    assert latent.gains(2).flatten().log().tolist() == pytest.approx([2, -1])
    assert latent.gains(1.25).flatten().log().tolist() == pytest.approx([0.5, 0.5])
    assert latent.gains(3).flatten().log().tolist() == pytest.approx([4, 5])
    assert latent.gains(2.75).flatten().log().tolist() == pytest.approx([3.5, 3.5])


def test_every_gain_learns(network):
    network.train()
    for task in network.tasks:
        for quality in (1, 2, 3):
            output = network(torch.rand(2, 3, 64, 64), task, quality)
            (output.x_hat.pow(2).mean() - sum(v.log().sum() for v in output.likelihoods.values())).backward()
    for each in network.latent_gains:
        assert each.logarithms.grad.abs().min() > 0
        assert each.inverse_logarithms.grad.abs().min() > 0


def test_streams_say_their_quality_and_any_codec_of_the_model_reads_them(network):
    image = (torch.rand(3, 40, 56) * 255).to(torch.uint8)
    written, reader = LearnedCodec(1.5, model=network), LearnedCodec(3, model=network)
    data = written.encode(image)
    assert read_stream(data).header.quality == 1.5
    assert torch.equal(reader.decode(data), written.decode(data))
    x = torch.rand(1, 3, 64, 64)
    codecs = [SlimmableFeatureCodec(quality, model=network) for quality in (1, 2, 3)]
    streams = [codec.encode(x, (64, 64)) for codec in codecs]
    assert len({*streams}) == 3
    for codec, stream in zip(reversed(codecs), streams, strict=True):
        expected = network(x, "detection", read_stream(stream).header.quality).x_hat
        torch.testing.assert_close(codec.decode(stream)[0], expected, atol=3e-3, rtol=1e-3)


def test_without_a_quality_the_middle_is_meant(network):
    assert LearnedCodec(model=network).quality == 2
    assert make(SlimmableFactorized, 4).check_quality(None) == 2.5
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(network(x, "detection").x_hat, network(x, "detection", 2).x_hat)
    assert LearnedCodec(7, model=make(SlimmableFactorized, 1)).quality == 7  # but a name


def test_a_stream_of_a_quality_that_the_model_has_not_is_told():
    few, many = make(SlimmableFactorized, 2), make(SlimmableFactorized, 4)
    few.update()
    few.fingerprint = many.fingerprint
    data = LearnedCodec(4, model=many).encode(torch.zeros(3, 16, 16, dtype=torch.uint8))
    with pytest.raises(BitstreamError, match="it has quality 4, the model 1 to 2"):
        LearnedCodec(1, model=few).decode(data)


@pytest.mark.parametrize("quality", [0, 0.99, 3.01, -1, float("nan"), "2", True])
def test_qualities_out_of_range_are_told(network, quality):
    with pytest.raises(ArgumentError, match="quality must be from 1 to 3"):
        network(torch.rand(1, 3, 64, 64), "detection", quality)
    with pytest.raises(ArgumentError, match="quality must be 1, the only one"):
        check_quality(2, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"qualities": 0}, "qualities must be a whole number from 1 to 64; got 0"),
        ({"qualities": 2.5}, "qualities must be a whole number"),
        ({"qualities": 65}, "qualities must be a whole number"),
        ({"latents": {"detection": 6}}, "latents must be a mapping with one each for detection, reconst"),
        ({"latents": [6, 9]}, "latents must be a mapping"),
        ({"latents": {"detection": 6, "reconstruction": 6}}, "latents must be .*strictly ascending"),
        ({"latents": {"detection": 6, "reconstruction": 0.5}}, "latents must be one or more channel counts"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message):
    with pytest.raises(ArgumentError, match=message):
        SlimmableFactorized(WIDTHS, features={"detection": FeatureMap(2, 8)}, **settings)


@pytest.mark.parametrize("means", [2, "yes", None])
def test_means_is_yes_or_no(means):
    with pytest.raises(ArgumentError, match="means must be true or false"):
        SlimmableHyperprior(WIDTHS, features={"detection": FeatureMap(2, 8)}, means=means)


def test_files_keep_everything(network, tmp_path):
    save_network(network, tmp_path / "m.safetensors")
    again = load_network(tmp_path / "m.safetensors")
    assert again.architecture() == network.architecture()
    assert again.weights_sha256() == network.weights_sha256()
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(again(x, "detection", 3).x_hat, network(x, "detection", 3).x_hat)
    assert build_network(network.architecture()).latents == network.latents


def test_inverse_gains_decide_the_fingerprint_and_gains_do_not(network):
    before = network.fingerprint("detection")
    with torch.no_grad():
        network.gains_of("detection").logarithms += 1
    assert network.fingerprint("detection") == before
    with torch.no_grad():
        network.gains_of("detection").inverse_logarithms += 1
    assert network.fingerprint("detection") != before
