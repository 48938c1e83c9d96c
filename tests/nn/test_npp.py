"""The neural preprocessor's network: any image, any λ it is for, in files and as plain layers."""

import json

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file
from torch import nn

from vcm.data import read_image
from vcm.errors import ArgumentError, WeightsError
from vcm.metrics.distortion import psnr
from vcm.nn.preprocessor import (
    NPP,
    QuantizationAdaptiveNPP,
    build_preprocessor,
    deployed,
    load_preprocessor,
    save_preprocessor,
)
from vcm.nn.serialization import read_notes
from vcm.nn.slimmable import SlimmableFactorized, save_network

CHANNELS = (3, 4, 5, 6)
KINDS = (NPP, QuantizationAdaptiveNPP)


def trained(kind, seed=0):
    """A network as training might leave it: not the identity, other statistics, gains that depend on λ."""
    torch.manual_seed(seed)
    network = kind(CHANNELS)
    with torch.no_grad():
        network.head[-1].weight.normal_(std=0.5)
        network.first.weight.add_(0.1 * torch.randn(3, 3, 1, 1))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.2)
        for gains in getattr(network, "gains", {}).values():
            gains.mlp[2].weight.normal_(std=0.3)
    return network.eval()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def network(request):
    return trained(request.param)


def rate_for(network):
    return 3.0 if isinstance(network, QuantizationAdaptiveNPP) else None


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_network_gives_the_image_back(kind, coco_images):
    image = read_image(coco_images[0])[:, :211, :333]
    x = image[None].float() / 255
    for network in (kind(CHANNELS).eval(), kind(CHANNELS).train()):
        with torch.no_grad():
            filtered = network(x, 2.0)
        assert torch.equal((filtered[0] * 255).round().to(torch.uint8), image)
        assert psnr((filtered[0] * 255).round().to(torch.uint8), image) == float("inf")


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 33), (16, 16)])
def test_images_of_any_size(network, size):
    x = torch.rand(2, 3, *size)
    filtered = network(x, rate_for(network))
    assert filtered.shape == x.shape
    assert filtered.min() >= 0
    assert filtered.max() <= 1
    assert not torch.equal(filtered, x)
    each = torch.cat([network(one[None], rate_for(network)) for one in x])
    torch.testing.assert_close(filtered, each)


def test_batch_normalization_rests_in_evaluation(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network(torch.rand(2, 3, 32, 32), rate_for(network))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    network.train()(torch.rand(2, 3, 32, 32), rate_for(network))
    assert not torch.equal(before["downs.0.1.running_mean"], network.state_dict()["downs.0.1.running_mean"])


def test_every_weight_learns(network):
    with torch.no_grad():
        for gains in getattr(network, "gains", {}).values():
            gains.mlp[2].weight.abs_()
    network.train()(torch.rand(2, 3, 48, 48), rate_for(network)).square().mean().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None]
    assert still == []


@pytest.mark.parametrize("channels", [(), (4, 4, 4), (4, 4, 4, 0), (4, 4, 4, 4.5), (4, 4, 4, True)])
def test_channels_are_checked(channels):
    with pytest.raises(ArgumentError, match="channels must be 4 whole numbers from 1"):
        NPP(channels)


# --- λ -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rates", [(), (1,), (2, 1), (0, 1), (1, float("inf")), (1, float("nan")), ("a", 1)])
def test_ranges_are_checked(rates):
    with pytest.raises(ArgumentError, match="lmbda_range must be two numbers above 0"):
        QuantizationAdaptiveNPP(CHANNELS, rates)


@pytest.mark.parametrize("rate", [None, 0.24, 16.1, float("nan"), "2", True])
def test_a_rate_outside_the_trained_range_is_told(rate):
    with pytest.raises(ArgumentError, match=r"lmbda must be a number from 0\.25 to 16"):
        QuantizationAdaptiveNPP(CHANNELS)(torch.rand(1, 3, 16, 16), rate)


def test_rates_interpolate_and_may_differ_in_a_batch():
    network = trained(QuantizationAdaptiveNPP)
    x = torch.rand(1, 3, 32, 48)
    rates = torch.tensor([0.25, 1, 1.001, 16])
    together = network(x.expand(4, -1, -1, -1), rates)
    alone = torch.cat([network(x, float(rate)) for rate in rates])
    torch.testing.assert_close(together, alone)
    steps = (together[1:] - together[:-1]).abs().mean((1, 2, 3))
    assert 0 < steps[1] < 0.02 * min(steps[0], steps[2])


def test_gains_multiply_where_the_paper_has_them():
    network = QuantizationAdaptiveNPP(CHANNELS)
    expected = {"first", "second", *(f"{kind}{n}" for kind in ("down", "up") for n in range(3))}
    assert set(network.gains) == expected
    widths = {place: gains.mlp[2].out_features for place, gains in network.gains.items()}
    assert widths == {"first": 3, "second": 3} | {
        f"{k}{n}": CHANNELS[n] for k in ("down", "up") for n in range(3)
    }


# --- files -------------------------------------------------------------------------------------------------


def test_a_file_builds_the_same_network(network, tmp_path):
    path = tmp_path / "npp.safetensors"
    save_preprocessor(network, path, pairs="{}")
    loaded = load_preprocessor(path)
    assert type(loaded) is type(network)
    assert not loaded.training
    assert json.loads(json.dumps(loaded.architecture())) == network.architecture()
    assert read_notes(path) == {"pairs": "{}"}
    x = torch.rand(1, 3, 20, 20)
    assert torch.equal(loaded(x, rate_for(network)), network(x, rate_for(network)))
    assert type(build_preprocessor(network.architecture())) is type(network)


def test_files_that_are_no_preprocessors_are_told(tmp_path):
    path, other = tmp_path / "npp.safetensors", tmp_path / "other.safetensors"
    save_preprocessor(trained(NPP), path)
    with pytest.raises(WeightsError, match="cannot be read as a model"):
        load_preprocessor(tmp_path / "missing.safetensors")
    other.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(WeightsError, match="cannot be read as a model"):
        load_preprocessor(other)
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 0xFF
    other.write_bytes(damaged)
    with pytest.raises(WeightsError, match="is damaged"):
        load_preprocessor(other)
    save_network(SlimmableFactorized({"reconstruction": 4}), other)
    with pytest.raises(WeightsError, match="does not hold a preprocessor"):
        load_preprocessor(other)
    for architecture in (
        {"network": "NPP", "channels": [3, 4, 5, 7]},
        {"network": "NPP"},
        {"network": "QANPP"},
        [],
    ):
        save_file(load_file(path), other, {"vcm": json.dumps(architecture)})
        with pytest.raises(WeightsError, match="does not hold a preprocessor"):
            load_preprocessor(other)


# --- plain layers ------------------------------------------------------------------------------------------


def test_deployed_gives_the_same_images(network):
    x = torch.rand(2, 3, 33, 50)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for rate in (0.25, 3.0, 16.0) if isinstance(network, QuantizationAdaptiveNPP) else (None,):
        plain = deployed(network, rate)
        torch.testing.assert_close(plain(x), network(x, rate))
        assert not any(isinstance(m, (nn.BatchNorm2d, nn.Linear)) for m in plain.modules())
        assert not any(p.requires_grad for p in plain.parameters())
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_deployed_checks_rates():
    with pytest.raises(ArgumentError, match=r"lmbda must be a number from 0\.25 to 16"):
        deployed(trained(QuantizationAdaptiveNPP), 20)
    with pytest.raises(ArgumentError, match="lmbda must be None"):
        deployed(trained(NPP), 2)


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.9"), reason="earlier exporters do not write sides of any size"
)
@pytest.mark.parametrize("form", ["plain", "fixed", "open"])
def test_deployed_exports_and_onnx_runtime_agrees(form, tmp_path):
    import onnxruntime

    network = trained(NPP if form == "plain" else QuantizationAdaptiveNPP)
    filters = deployed(network, 3.0 if form == "fixed" else None)
    inputs = (torch.rand(1, 3, 48, 80), *([torch.tensor([3.0])] if form == "open" else []))
    others = (torch.rand(1, 3, 96, 32), *([torch.tensor([0.7])] if form == "open" else []))
    height, width = (16 * torch.export.Dim(name, min=1, max=512) for name in ("rows", "columns"))
    shapes = {"x": {2: height, 3: width}, **({"lmbda": {}} if form == "open" else {})}
    exported = torch.export.export(filters, others, dynamic_shapes=shapes)
    path = tmp_path / "npp.onnx"
    torch.onnx.export(exported, (), str(path), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(path))
    for given in (inputs, others):
        expected = filters(*given)
        torch.testing.assert_close(exported.module()(*given), expected)
        named = {node.name: x.numpy() for node, x in zip(session.get_inputs(), given, strict=True)}
        (got,) = session.run(None, named)
        torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fold", [False, True])
def test_pixels_that_are_not_finite_are_an_error_and_no_black_image(network, fold):
    with torch.no_grad():
        network.head[-1].weight.fill_(3e38)
        network.head[-1].bias.fill_(3e38)
        network.second.bias.fill_(3e38)
    filtered = deployed(network) if fold else network
    with pytest.raises(WeightsError, match=r"NaN or infinite pixels for an image of \(16, 32\)"):
        filtered(torch.ones(1, 3, 16, 32), rate_for(network))
