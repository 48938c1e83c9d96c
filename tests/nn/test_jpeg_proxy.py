"""The differentiable JPEG against Pillow's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vcm.codecs import JPEGCodec
from vcm.data import read_image
from vcm.errors import ArgumentError
from vcm.nn.proxy import JPEGProxy


def as_input(*images: Tensor) -> Tensor:
    return torch.stack(images).float() / 255


def halved(image: Tensor) -> Tensor:
    return F.avg_pool2d(image.float(), 2).round().to(torch.uint8)


def psnr(one: Tensor, other: Tensor) -> float:
    return float(-10 * ((one - other).square().mean() + 1e-10).log10())


@pytest.mark.parametrize("chroma", ["420", "444"])
@pytest.mark.parametrize("quality", [5, 20, 50, 80, 95])
def test_images_and_rates_are_nearly_pillows_on_photographs(
    coco_images: list[Path], chroma: str, quality: int
) -> None:
    proxy, codec = JPEGProxy(chroma=chroma).eval(), JPEGCodec(quality, chroma=chroma)
    # at half their size: COCO's images were JPEG once, which shows at high qualities
    images = [halved(read_image(path)) for path in coco_images[:24]]
    distances, estimated, real = [], [], []
    for image in images:
        data = codec.encode(image)
        with torch.no_grad():
            output = proxy(as_input(image), quality)
        levels = output.x_hat[0].clamp(0, 1).mul(255).round()
        distances.append(psnr(levels / 255, codec.decode(data).float() / 255))
        estimated.append(float(output.bpp))
        real.append(8 * len(data) / image[0].numel())
    errors = np.abs(np.divide(estimated, real) - 1)
    ranks = [np.argsort(np.argsort(values)) for values in (estimated, real)]
    rank_correlation = np.corrcoef(ranks)[0, 1]
    print(f"PSNR {np.mean(distances):.1f} dB, at worst {min(distances):.1f}; rates {errors.mean():.3f} off, ")
    print(f"at worst {errors.max():.3f}; rank correlation {rank_correlation:.4f}")
    assert np.mean(distances) > 45
    assert min(distances) > 41
    assert errors.mean() < 0.03
    assert errors.max() < 0.12
    assert rank_correlation > 0.98


@pytest.mark.parametrize("chroma", ["420", "444"])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 50), (2, 3), (3, 5), (4, 4), (7, 9), (17, 33), (50, 1)]
)
def test_any_size_comes_back_as_pillow_has_it(height: int, width: int, chroma: str) -> None:
    corner = torch.linspace(0, 1, height)[:, None] + torch.linspace(0, 1, width)
    image = torch.stack([60 + 60 * corner, 200 - 50 * corner, 90 + 20 * corner]).to(torch.uint8)
    codec = JPEGCodec(75, chroma=chroma)
    data = codec.encode(image)
    output = JPEGProxy(chroma=chroma).eval()(as_input(image), 75)
    assert output.x_hat.shape == (1, 3, height, width)
    assert psnr(output.x_hat[0], codec.decode(data).float() / 255) > 44
    assert float(output.bpp) == pytest.approx(8 * len(data) / (height * width), rel=0.03)


def test_training_mode_is_near_and_softer(coco_images: list[Path]) -> None:
    x = as_input(read_image(coco_images[0])[:, :128, :128])
    proxy = JPEGProxy()
    soft, hard = proxy.train()(x, 50), proxy.eval()(x, 50)
    assert not torch.equal(soft.x_hat, hard.x_hat)
    assert psnr(soft.x_hat, hard.x_hat) > 30
    assert float(soft.bpp) == pytest.approx(float(hard.bpp), rel=0.1)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_soft_rounding(training: bool) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 21, 19, requires_grad=True)
    proxy = JPEGProxy().train(training)
    output = proxy(x, torch.tensor([30.0, 90.0]))
    for value in (output.bpp.sum(), output.x_hat.square().mean()):
        (gradient,) = torch.autograd.grad(value, x, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient.flatten(1).abs().amax(1) > 0).all()
    mode = JPEGProxy().train(not training)(x, torch.tensor([30.0, 90.0]))
    ours, theirs = (torch.autograd.grad(out.x_hat.sum(), x)[0] for out in (output, mode))
    torch.testing.assert_close(ours, theirs)  # of what is linear in the symbols


def test_going_along_the_rates_gradient_saves_real_bytes(coco_images: list[Path]) -> None:
    image = read_image(coco_images[3])[:, :192, :192]
    x, codec, proxy = as_input(image).requires_grad_(), JPEGCodec(60), JPEGProxy()
    optimizer = torch.optim.Adam([x], 2e-3)
    for _ in range(20):
        optimizer.zero_grad()
        proxy(x, 60).bpp.sum().backward()
        optimizer.step()
    changed = x.detach()[0].clamp(0, 1).mul(255).round().to(torch.uint8)
    assert len(codec.encode(changed)) < 0.9 * len(codec.encode(image))
    assert psnr(changed / 255, image / 255) > 30


def test_a_batch_with_different_qualities_is_each_one_by_one() -> None:
    torch.manual_seed(0)
    x, qualities = torch.rand(3, 3, 24, 40), torch.tensor([10.0, 55.5, 95.0])
    proxy = JPEGProxy().eval()
    together = proxy(x, qualities)
    for index, quality in enumerate(qualities.tolist()):
        alone = proxy(x[index : index + 1], quality)
        torch.testing.assert_close(together.x_hat[index], alone.x_hat[0])
        torch.testing.assert_close(together.bpp[index], alone.bpp[0])


def test_autocast_does_not_blur_it() -> None:
    torch.manual_seed(0)
    x, proxy = torch.rand(1, 3, 16, 16), JPEGProxy().eval()
    with torch.autocast("cpu", torch.bfloat16):
        half = proxy(x, 80)
    whole = proxy(x, 80)
    assert torch.equal(half.x_hat, whole.x_hat)
    assert torch.equal(half.bpp, whole.bpp)


def test_has_no_weights_and_is_built_again_from_its_architecture() -> None:
    proxy = JPEGProxy((10, 50), chroma="444")
    assert not proxy.state_dict()
    settings = proxy.architecture()
    assert settings.pop("network") == "JPEGProxy"
    assert JPEGProxy(**settings).architecture() == proxy.architecture()


@pytest.mark.parametrize("quality", [4, 95.5, float("nan"), torch.tensor([50.0, 96.0])])
def test_a_quality_outside_is_told(quality: float | Tensor) -> None:
    with pytest.raises(ArgumentError, match="from 5 to 95, for which this proxy of jpeg is"):
        JPEGProxy()(torch.rand(2, 3, 8, 8), quality)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"qualities": (0, 50)}, "within JPEG's scale, 1 to 100"),
        ({"qualities": (5, 101)}, "within JPEG's scale, 1 to 100"),
        ({"qualities": (50, 5)}, "smallest and the largest"),
        ({"chroma": "422"}, "one of '420', '444'"),
    ],
)
def test_settings_that_cannot_be_are_told(arguments: dict[str, object], complaint: str) -> None:
    with pytest.raises(ArgumentError, match=complaint):
        JPEGProxy(**arguments)  # type: ignore[arg-type]
