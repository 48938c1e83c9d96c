"""A learned codec that stands in for a real one."""

import math

import pytest
import torch
import torch.nn.functional as F

from vcm.errors import ArgumentError
from vcm.nn.proxy import IdentityProxy, JPEGProxy, LearnedProxy, build_proxy, load_proxy, save_proxy


def make(**settings):
    torch.manual_seed(0)
    return LearnedProxy(**{"channels": 8, "num_stages": 3, **settings}).eval()


def smooth(height=64, width=64, count=2):
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    return F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize("stages", [3, 4])
@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_image_and_rate_reach_every_pixel(context, stages, training):
    proxy = make(context=context, num_stages=stages).train(training)
    x = smooth().requires_grad_()
    output = proxy(x, 30.0)
    assert output.x_hat.shape == x.shape
    assert output.bpp.shape == (2,)
    for part in (output.x_hat.sum(), output.bpp.sum()):
        (gradient,) = torch.autograd.grad(part, x, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient.abs().sum(dim=1) > 0).float().mean() > 0.95


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (17, 33), (64, 96)])
def test_any_size(size):
    output = make()(smooth(*size), 33.0)
    assert output.x_hat.shape == (2, 3, *size)
    assert (output.bpp > 0).all()


@torch.no_grad()
def test_a_batch_of_qualities_is_one_by_one():
    proxy, x = make(), smooth(count=3)
    qualities = torch.tensor([22.0, 33.5, 44.0])
    together = proxy(x, qualities)
    for index, quality in enumerate(qualities.tolist()):
        alone = proxy(x[index : index + 1], quality)
        torch.testing.assert_close(together.x_hat[index], alone.x_hat[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.bpp[index], alone.bpp[0])


@torch.no_grad()
def test_coarser_steps_cost_less_and_lose_more():
    proxy, x = make(header_bits=300), smooth(128, 128)
    outputs = [proxy(x, quality) for quality in (22.0, 30.0, 37.0, 44.0)]
    rates = [float(o.bpp.mean()) for o in outputs]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 300 / 128**2
    errors = [float((o.x_hat - x).pow(2).mean()) for o in outputs]
    assert errors[-1] > errors[0]


@torch.no_grad()
def test_the_rates_scale_is_exact_in_mixed_precision():
    proxy = LearnedProxy(channels=4).eval()
    with torch.no_grad():
        proxy.calibration.fill_(0.0123456)
    bare = LearnedProxy(channels=4).eval()
    bare.load_state_dict({**proxy.state_dict(), "calibration": torch.zeros(2, 3)})
    x = torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        ratio = proxy(x, 44.0).bpp / bare(x, 44.0).bpp
    assert float(ratio) == pytest.approx(math.exp(0.370368), rel=1e-5)


def test_evaluation_repeats_itself_and_training_does_not():
    proxy, x = make(), smooth()
    assert torch.equal(proxy(x, 30.0).bpp, proxy(x, 30.0).bpp)
    proxy.train()
    assert not torch.equal(proxy(x, 30.0).bpp, proxy(x, 30.0).bpp)


@pytest.mark.parametrize("quality", [21, 44.5, float("nan")])
def test_qualities_outside_are_told(quality):
    message = "quality must be from 22 to 44, for which this proxy of bpg is; got .*Use qualities that it was"
    with pytest.raises(ArgumentError, match=message):
        make()(smooth(), quality)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 0}, "channels must be a whole number from 1; got 0"),
        ({"num_stages": 0}, "num_stages must be"),
        ({"latent_channels": 1.5}, "latent_channels must be"),
        ({"steps": (1, 0)}, "steps must be two numbers above 0"),
        ({"header_bits": -1}, "header_bits must be 0 or more"),
        ({"qualities": (44, 22)}, "qualities must be the smallest and the largest quality"),
    ],
)
def test_settings_that_cannot_be_are_told(settings, message):
    with pytest.raises(ArgumentError, match=message):
        make(**settings)


@torch.no_grad()
@pytest.mark.parametrize(
    "proxy",
    [
        lambda: make(context=True, latent_channels=5, header_bits=7),
        lambda: JPEGProxy((20, 70), "444"),
        lambda: IdentityProxy("bpg", (22, 44), channels=3),
        lambda: IdentityProxy("bpg", (22, 44), rate="constant", bpp=0.3),
    ],
)
def test_files_build_the_same_proxy_again(proxy, tmp_path):
    proxy = proxy().eval()
    save_proxy(proxy, tmp_path / "p.safetensors")
    loaded = load_proxy(tmp_path / "p.safetensors")
    assert loaded.architecture() == proxy.architecture()
    x = smooth()
    assert torch.equal(loaded(x, 30.0).x_hat, proxy(x, 30.0).x_hat)
    assert torch.equal(loaded(x, 30.0).bpp, proxy(x, 30.0).bpp)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, r"architecture must be what Proxy\.architecture\(\) gives"),
        ({"network": "NPP"}, "network must be one of LearnedProxy, JPEGProxy, IdentityProxy, TransformProxy"),
        (
            {"network": "LearnedProxy", "colour": 3},
            r"architecture must be what Proxy\.architecture\(\) gives",
        ),
    ],
)
def test_descriptions_that_are_none_are_told(wrong, message):
    with pytest.raises(ArgumentError, match=message):
        build_proxy(wrong)
