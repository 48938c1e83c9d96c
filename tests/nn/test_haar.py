"""Autoencoders that start as a pyramid of Haar transforms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vcm.nn.haar import start_as_haar
from vcm.nn.layers import downsampling, upsampling
from vcm.nn.proxy import LearnedProxy
from vcm.nn.slimmable import FeatureMap, SlimmableFactorized, SlimmableHyperprior


def chain(widths, gain=0.5, noise=0.0):
    torch.manual_seed(0)
    downs = [downsampling(a, b) for a, b in zip((3, *widths[:-1]), widths, strict=True)]
    ups = [upsampling(b, a) for a, b in zip((3, *widths[:-1]), widths, strict=True)][::-1]
    start_as_haar(downs, [ups], gain=gain, noise=noise)
    return nn.Sequential(*downs), nn.Sequential(*ups)


def smooth(size=64, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return F.interpolate(
        torch.rand(2, 3, 6, 6, generator=generator), size=(size, size), mode="bicubic"
    ).clamp(0, 1)


@torch.no_grad()
@pytest.mark.parametrize("gain", [0.5, 1.0, 1.5])
def test_enough_channels_give_back_the_image(gain):
    encoder, decoder = chain((12, 48), gain)
    x = torch.rand(2, 3, 32, 48)
    torch.testing.assert_close(decoder(encoder(x)), x, atol=1e-5, rtol=0)


@torch.no_grad()
def test_energy_is_kept_and_grey_is_zero():
    encoder, _ = chain((12, 48), gain=1.0)
    grey = torch.full((1, 3, 16, 16), 0.45)
    torch.testing.assert_close(encoder(grey), torch.zeros(1, 48, 4, 4), atol=1e-5, rtol=0)
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(encoder(x).norm(), (x - 0.45).norm(), rtol=1e-4, atol=0)


@torch.no_grad()
def test_a_decoder_that_stops_early_gives_the_bands_of_that_stage():
    torch.manual_seed(0)
    downs, ups = [downsampling(3, 12), downsampling(12, 48)], [upsampling(48, 12), upsampling(12, 3)]
    early = upsampling(48, 12)
    start_as_haar(downs, [ups, [early]], gain=1.5, noise=0)
    x = torch.rand(1, 3, 32, 32)
    bands = downs[0](x)
    given = early(downs[1](bands))
    grey = (bands - given).mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(given + grey, bands, atol=1e-5, rtol=0)
    assert grey.flatten()[1:].abs().max() < 1e-5  # only of brightness
    torch.testing.assert_close(ups[1](given), x, atol=1e-5, rtol=0)


@torch.no_grad()
def test_few_channels_keep_the_most_and_in_order():
    x = smooth()
    errors = []
    for width in (1, 4, 12, 24):
        encoder, decoder = chain((12, 48, width))
        errors.append(float((decoder(encoder(x)) - x).pow(2).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2 * float((x - 0.45).pow(2).mean())
    wide, _ = chain((12, 48, 24))
    narrow, _ = chain((12, 48, 4))
    torch.testing.assert_close(wide(x)[:, :4], narrow(x))


@torch.no_grad()
@pytest.mark.parametrize("kind", [SlimmableFactorized, SlimmableHyperprior])
def test_new_slimmable_networks_are_transform_codecs(kind):
    torch.manual_seed(0)
    network = kind({"detection": 40, "reconstruction": 64}, features={"detection": FeatureMap(4, 8)})
    x = smooth(128)
    latents = network.at_width("reconstruction")(x)[0]
    unrounded = network.decode(latents, "reconstruction")
    assert -10 * (unrounded - x).pow(2).mean().log10() > 18


def test_networks_that_only_machines_read_start_too():
    network = SlimmableFactorized({"detection": 8}, features={"detection": FeatureMap(4, 8)})
    assert network.at_width("detection")(torch.full((1, 3, 32, 32), 0.45))[0].abs().max() < 2


@torch.no_grad()
def test_a_new_proxy_shows_the_image():
    torch.manual_seed(0)
    proxy = LearnedProxy(channels=24, latent_channels=48, num_stages=3).eval()
    x = smooth(96)
    assert -10 * (proxy(x, 22.0).x_hat - x).pow(2).mean().log10() > 18
