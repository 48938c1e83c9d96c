"""The ablation of a proxy: the image as it is, with a rate."""

from __future__ import annotations

import math

import pytest
import torch

from vcm.errors import ArgumentError
from vcm.nn.proxy import IdentityProxy, JPEGProxy


@pytest.mark.parametrize("rate", ["learned", "constant"])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (33, 17)])
def test_the_image_comes_back_with_the_rate_that_it_starts_with(rate: str, size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *size)
    output = IdentityProxy("bpg", (22, 44), rate=rate, bpp=0.3)(x, torch.tensor([22.0, 40.0]))
    assert torch.equal(output.x_hat, x)
    torch.testing.assert_close(output.bpp, torch.tensor([0.3, 0.3]))


def test_a_constant_rate_has_no_gradient_and_no_weights() -> None:
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    proxy = IdentityProxy("bpg", (22, 44), rate="constant")
    output = proxy(x, 30)
    assert not output.bpp.requires_grad
    assert output.x_hat.requires_grad
    assert not list(proxy.parameters())


def test_a_learned_rate_learns_what_a_codec_takes() -> None:
    torch.manual_seed(0)
    codec, proxy = JPEGProxy().eval(), IdentityProxy("jpeg", (5, 95))
    strengths = torch.rand(80, 1, 1, 1)
    smooth = torch.nn.functional.interpolate(torch.rand(80, 3, 6, 6), (32, 32), mode="bicubic").clamp(0, 1)
    images = (smooth + 0.3 * strengths * (torch.rand(80, 3, 32, 32) - 0.5)).clamp(0, 1)
    qualities = 5 + 90 * torch.rand(80)
    with torch.no_grad():
        real = codec(images, qualities).bpp
    optimizer = torch.optim.Adam(proxy.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (proxy(images[:64], qualities[:64]).bpp.log() - real[:64].log()).square().mean()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        learned = proxy(images[64:], qualities[64:]).bpp
    ranks = torch.stack((learned, real[64:])).argsort(dim=1).argsort(dim=1).float()
    assert torch.corrcoef(ranks)[0, 1] > 0.9
    x = images[:2].requires_grad_()
    (gradient,) = torch.autograd.grad(proxy(x, 50).bpp.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().amax(1) > 0).all()


def test_a_batch_with_different_qualities_is_each_one_by_one() -> None:
    torch.manual_seed(0)
    proxy, x = IdentityProxy("bpg", (22, 44)).eval(), torch.rand(2, 3, 9, 14)
    for parameter in proxy.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    together = proxy(x, torch.tensor([25.0, 40.0])).bpp
    alone = torch.cat([proxy(x[:1], 25).bpp, proxy(x[1:], 40).bpp])
    torch.testing.assert_close(together, alone)
    assert proxy(x[:1], 25).bpp != proxy(x[:1], 40).bpp


@pytest.mark.parametrize("rate", ["learned", "constant"])
def test_is_built_again_from_its_architecture(rate: str) -> None:
    proxy = IdentityProxy("webp", (0, 80), rate=rate, channels=4, bpp=0.5)
    settings = proxy.architecture()
    assert settings.pop("network") == "IdentityProxy"
    again = IdentityProxy(**settings)
    again.load_state_dict(proxy.state_dict())
    assert again.architecture() == proxy.architecture()


def test_a_quality_outside_is_told() -> None:
    with pytest.raises(ArgumentError, match="from 22 to 44, for which this proxy of bpg is"):
        IdentityProxy("bpg", (22, 44), rate="constant")(torch.rand(1, 3, 8, 8), 21)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"rate": "free"}, "rate must be 'learned' or 'constant'"),
        ({"channels": 0}, "channels must be a whole number from 1"),
        ({"bpp": 0}, "bpp must be a number above 0"),
        ({"bpp": math.inf}, "bpp must be a number above 0"),
    ],
)
def test_settings_that_cannot_be_are_told(arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(ArgumentError, match=complaint):
        IdentityProxy("bpg", (22, 44), **arguments)  # type: ignore[arg-type]
