import pytest
import torch
from compressai.layers import GDN
from compressai.losses import RateDistortionLoss
from compressai.models import FactorizedPrior, ScaleHyperprior
from packaging.version import Version
from torch import nn

from vcm.errors import ArgumentError, BitstreamError
from vcm.losses.rate_distortion import rate_distortion
from vcm.nn.slimmable import (
    FeatureMap,
    LatentScalable,
    SlimmableFactorized,
    SlimmableHyperprior,
    build_network,
)
from vcm.nn.slimmable.layers import DenseGDN, SlimmableConv2d, SlimmableConvTranspose2d
from vcm.nn.slimmable.transforms import FeatureTransform

NARROW, FULL = 6, 10
KINDS = (SlimmableFactorized, SlimmableHyperprior, LatentScalable)


def make(kind, seed=0, **changes):
    """A two-task network whose latents are not all zero."""
    torch.manual_seed(seed)
    arguments = {
        "widths": {"detection": NARROW, "reconstruction": FULL},
        "features": {"detection": FeatureMap(5, 8)},
        **changes,
    }
    network = kind(arguments.pop("widths"), **arguments)
    with torch.no_grad():
        for conv in network.g_a.convs:
            conv.weight *= 3
    return network.eval()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def network(request):
    return make(request.param)


def copy_autoencoder(theirs, ours, index):
    """CompressAI's weights into ours at the full width; its first bias is set to zero, as ours has none."""
    nn.init.zeros_(theirs.g_a[0].bias)
    for number in range(4):
        ours.g_a.convs[number].load_state_dict(
            {k: v for k, v in theirs.g_a[2 * number].state_dict().items() if (number, k) != (0, "bias")}
        )
    for number in range(3):
        ours.g_a.gdns[number].at[index].load_state_dict(theirs.g_a[2 * number + 1].state_dict())
    ours.decoders["reconstruction"].load_state_dict(theirs.g_s.state_dict())
    ours.entropy_bottlenecks[index].load_state_dict(theirs.entropy_bottleneck.state_dict())


def test_factorized_equals_compressai_at_full_width():
    torch.manual_seed(1)
    theirs, ours = FactorizedPrior(FULL, FULL).eval(), make(SlimmableFactorized)
    with torch.no_grad():
        for layer in theirs.g_a[::2]:
            layer.weight *= 4
    copy_autoencoder(theirs, ours, 1)
    x = torch.rand(2, 3, 64, 96)
    expected, got = theirs(x), ours(x, "reconstruction")
    assert expected["likelihoods"]["y"].std() > 0.001
    torch.testing.assert_close(got.x_hat, expected["x_hat"])
    torch.testing.assert_close(got.likelihoods["y"], expected["likelihoods"]["y"])


def test_hyperprior_equals_compressai_at_full_width():
    """CompressAI's network with LeakyReLU, as the paper has it, and no ReLU before the bound on scales."""
    torch.manual_seed(1)
    theirs, ours = ScaleHyperprior(FULL, FULL).eval(), make(SlimmableHyperprior)
    for transform in (theirs.h_a, theirs.h_s):
        transform[1] = transform[3] = nn.LeakyReLU()
    theirs.h_s[5] = nn.Identity()
    with torch.no_grad():
        for layer in (*theirs.g_a[::2], theirs.h_a[0], theirs.h_a[2], theirs.h_a[4], theirs.h_s[4]):
            layer.weight *= 3
    copy_autoencoder(theirs, ours, 1)
    for number in range(3):
        ours.h_a.convs[number].load_state_dict(theirs.h_a[2 * number].state_dict())
    for number in range(2):
        ours.h_s.deconvs[number].load_state_dict(theirs.h_s[2 * number].state_dict())
    with torch.no_grad():  # a transposed 3×3 convolution is a convolution with the kernel turned round
        ours.h_s.deconvs[2].weight.copy_(theirs.h_s[4].weight.flip(2, 3).transpose(0, 1))
        ours.h_s.deconvs[2].bias.copy_(theirs.h_s[4].bias)
    x = torch.rand(2, 3, 64, 128)
    expected, got = theirs(x), ours(x, "reconstruction")
    assert expected["likelihoods"]["y"].std() > 0.01
    for name in ("y", "z"):
        torch.testing.assert_close(got.likelihoods[name], expected["likelihoods"][name])
    torch.testing.assert_close(got.x_hat, expected["x_hat"])


@pytest.mark.parametrize("task", ["detection", "reconstruction"])
def test_strings_are_decompressed_to_what_forward_gives(network, task):
    torch.manual_seed(0)
    network.eval()
    x = torch.rand(2, 3, 2 * network.stride, network.stride)
    coded = network.compress(x, task)
    assert coded["shape"] == (2, 1)
    assert [len(section) for section in coded["strings"]] == [2] * len(network.sections(task))
    found = network.decompress(**coded, task=task)
    with torch.no_grad():
        expected = network(x, task)
    torch.testing.assert_close(found["x_hat"], expected["x_hat"])
    estimated = sum(-float(values.log2().sum()) for values in expected["likelihoods"].values())
    real = 8 * sum(len(string) for section in coded["strings"] for string in section)
    assert real == pytest.approx(estimated, rel=0.05, abs=400)
    with pytest.raises(ArgumentError, match="strings must be one list each for"):
        network.decompress(coded["strings"] * 2, coded["shape"], task)
    damaged = [[string[:3] for string in section] for section in coded["strings"]]
    with pytest.raises(BitstreamError):
        network.decompress(damaged, coded["shape"], task)
    with pytest.raises(KeyError):
        expected["y_hat"]


def test_compressai_computes_the_loss_of_an_output():
    network = make(SlimmableHyperprior).eval()
    x = torch.rand(2, 3, 64, 64)
    output = network(x, "reconstruction")
    found = RateDistortionLoss(lmbda=0.01)(output, x)
    expected = rate_distortion(output.x_hat, x, output.likelihoods.values(), 2 * 64 * 64, 0.01)
    torch.testing.assert_close(found["loss"], expected.loss)
    torch.testing.assert_close(found["bpp_loss"], expected.bpp)


def test_aux_loss_sums_over_tasks():
    network = make(SlimmableHyperprior)
    parts = [network.aux_loss(task) for task in network.tasks]
    torch.testing.assert_close(network.aux_loss(), sum(parts))


def test_dense_gdn_equals_compressai():
    torch.manual_seed(0)
    gdn = GDN(7)
    with torch.no_grad():
        gdn.gamma += 0.1 * torch.rand_like(gdn.gamma)
        gdn.beta += torch.rand_like(gdn.beta)
    x = torch.randn(2, 7, 5, 9)
    torch.testing.assert_close(DenseGDN(gdn)(x.clone()), gdn(x))


def test_layers_are_slices():
    torch.manual_seed(0)
    conv = SlimmableConv2d([2, 4], [3, 5], 5, stride=2)
    narrow = nn.Conv2d(2, 3, 5, 2, 2)
    narrow.load_state_dict({"weight": conv.weight[:3, :2], "bias": conv.bias[:3]})
    x = torch.randn(1, 2, 9, 7)
    assert torch.equal(conv(x, 0), narrow(x))
    assert torch.equal(conv.dense(0)(x), narrow(x))
    assert conv(torch.randn(1, 4, 9, 7), 1).shape == (1, 5, 5, 4)
    deconv = SlimmableConvTranspose2d([2, 4], [3, 5], 5, stride=2)
    plain = nn.ConvTranspose2d(2, 3, 5, 2, 2, output_padding=1)
    plain.load_state_dict({"weight": deconv.weight[:2, :3], "bias": deconv.bias[:3]})
    assert torch.equal(deconv(x, 0), plain(x))


def test_at_width_gives_the_same_latent(network):
    x = torch.rand(1, 3, 64, 64)
    for task in network.tasks:
        latents = network.at_width(task)(x)
        symbols = network.quantize(latents, task)
        decoded = network.decode(network.dequantize(symbols, task), task)
        torch.testing.assert_close(decoded, network(x, task).x_hat)
    assert not any(p.requires_grad for p in network.at_width("detection").parameters())


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.9"), reason="earlier exporters do not write sides of any size"
)
@pytest.mark.parametrize("kind", KINDS)
def test_at_width_exports_and_onnx_runtime_agrees(kind, tmp_path):
    import onnxruntime

    network = make(kind)
    encoder = network.at_width("detection")
    x = torch.rand(1, 3, 128, 192)
    expected = encoder(x)
    height, width = (64 * torch.export.Dim(name, min=2, max=64) for name in ("rows", "columns"))
    shapes = {"x": {2: height, 3: width}}
    exported = torch.export.export(encoder, (torch.rand(1, 3, 192, 256),), dynamic_shapes=shapes)
    for ours, theirs in zip(exported.module()(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    path = tmp_path / "encoder.onnx"
    torch.onnx.export(exported, (), str(path), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(path))
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for got, latent in zip(outputs, expected, strict=True):
        largest = float(latent.abs().max())
        torch.testing.assert_close(torch.from_numpy(got), latent, atol=1e-4 * largest, rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16, 32, 64])
def test_feature_transform_gives_any_stride(stride):
    features = FeatureTransform(4, 3, stride, 5)(torch.rand(2, 4, 8, 12))
    assert features.shape == (2, 3, 8 * 16 // stride, 12 * 16 // stride)
    if stride == 8:
        assert [tuple(m.weight.shape[2:]) for m in FeatureTransform(4, 3, 8, 5) if hasattr(m, "weight")] == [
            (5, 5),
            (5, 5),
            (3, 3),
            (3, 3),
        ]


@pytest.mark.parametrize("stride", [0, 3, 128, -8, 8.0, "8"])
def test_feature_transform_refuses_other_strides(stride):
    with pytest.raises(ArgumentError, match="stride must be one of 1, 2, 4"):
        FeatureTransform(4, 3, stride, 5)


@pytest.mark.parametrize(("stride", "places"), [(8, 8), (4, 16), (2, 32)])
def test_early_features_are_decoded_by_synthesis(stride, places):
    target = FeatureMap(7, stride, synthesis=True, hidden=4)
    network = make(SlimmableFactorized, features={"detection": target})
    decoded = network(torch.rand(1, 3, 64, 64), "detection").x_hat
    assert decoded.shape == (1, 7, places, places)
    again = build_network(network.architecture())
    again.load_state_dict(network.state_dict())
    assert again.features["detection"] == target
    assert again.fingerprint("detection") == network.fingerprint("detection")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (FeatureMap(7, 16, synthesis=True), "stride must be one of 2, 4, 8"),
        (FeatureMap(7, 8, hidden=0), "hidden must be a whole number from 1; got 0"),
        (FeatureMap(7, 8, synthesis=True, hidden=2.5), "hidden must be a whole number from 1; got 2.5"),
        (FeatureMap(0, 8), "channels must be a whole number from 1; got 0"),
    ],
)
def test_feature_maps_that_cannot_be_are_told(target, message):
    with pytest.raises(ArgumentError, match=message):
        make(SlimmableFactorized, features={"detection": target})


@pytest.mark.parametrize(
    ("widths", "features", "message"),
    [
        ({"detection": 10, "reconstruction": 6}, {"detection": FeatureMap(1, 8)}, "strictly ascending"),
        ({"detection": 6, "reconstruction": 6}, {"detection": FeatureMap(1, 8)}, "strictly ascending"),
        ({"detection": 0, "reconstruction": 6}, {"detection": FeatureMap(1, 8)}, "strictly ascending"),
        ({"reconstruction": 6.5}, {}, "channel counts"),
        ({}, {}, "one or more"),
        ({"reconstruction": 6}, {"detection": FeatureMap(1, 8)}, "detection has a feature map but no width"),
        ({"detection": 4, "reconstruction": 6}, {}, "detection has none"),
        ({"reconstruction": 6}, {"reconstruction": FeatureMap(1, 8)}, "gives an image"),
        ({"a.b": 6}, {}, "letters, digits"),
    ],
)
def test_widths_and_tasks_that_do_not_fit_are_told(widths, features, message):
    with pytest.raises(ArgumentError, match=message):
        SlimmableFactorized(widths, features=features)


def test_unknown_tasks_are_told(network):
    for call in (network.at_width, network.index, network.fingerprint):
        with pytest.raises(
            ArgumentError, match="task must be one of detection, reconstruction; got 'segment'"
        ):
            call("segment")


def test_any_number_of_widths_and_one_width():
    three = make(
        SlimmableHyperprior,
        widths={"detection": 4, "classification": 6, "reconstruction": 9},
        features={"detection": FeatureMap(3, 8), "classification": FeatureMap(2, 16)},
    )
    x = torch.rand(1, 3, 64, 64)
    assert three(x, "classification").x_hat.shape == (1, 2, 4, 4)
    assert three(x, "detection").x_hat.shape == (1, 3, 8, 8)
    one = make(SlimmableFactorized, widths={"reconstruction": 5}, features={})
    assert one(x, "reconstruction").x_hat.shape == x.shape


def test_latent_scalable_streams_are_layered():
    network = make(LatentScalable)
    latents = network.at_width("reconstruction")(torch.rand(1, 3, 64, 64))
    base, both = (network.quantize(latents, task) for task in network.tasks)
    assert torch.equal(base["y0"], both["y0"])
    assert both["y1"].shape[0] == FULL - NARROW
    assert network.sections("detection") == ("y0",)
