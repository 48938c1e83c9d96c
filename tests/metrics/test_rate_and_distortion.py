import math

import pytest
import torch
from compressai.utils.bench.codecs import compute_metrics
from PIL import Image
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure, PeakSignalNoiseRatio

from vcm.errors import ArgumentError
from vcm.metrics.distortion import Distortion, ms_ssim, psnr
from vcm.metrics.rate import Rate


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 23, 31, generator=generator)
    original = torch.nn.functional.interpolate(coarse, (230, 310), mode="bicubic").clamp(0, 1)[0]
    noisy = (original + 0.05 * torch.randn(original.shape, generator=generator)).clamp(0, 1)
    return tuple((image * 255).round().to(torch.uint8) for image in (noisy, original))


def test_rate_of_a_set_is_total_bits_over_total_pixels():
    rate = Rate()
    rate.update(100, 10, 20)
    rate.update(5, 1, 1)
    assert rate.compute()["bpp"].item() == pytest.approx(840 / 201, abs=1e-15)
    assert rate.compute()["mean_bpp"].item() == pytest.approx((4 + 40) / 2, abs=1e-15)


def test_rate_counts_beyond_float32():
    rate = Rate()
    for _ in range(3):
        rate.update(2**31 + 1, 2**15, 2**15)
    assert int(rate.num_bits) == 3 * 8 * (2**31 + 1)


def test_rate_rejects_nonsense():
    with pytest.raises(ArgumentError, match="num_bytes"):
        Rate().update(-1, 4, 4)
    with pytest.raises(ArgumentError, match="height, width"):
        Rate().update(1, 0, 4)


def test_psnr_and_ms_ssim_equal_torchmetrics_and_compressai(pair):
    decoded, original = pair
    reference = PeakSignalNoiseRatio(data_range=255)(decoded.double(), original.double())
    assert psnr(decoded, original) == pytest.approx(reference.item(), abs=1e-4)
    reference = MultiScaleStructuralSimilarityIndexMeasure(data_range=255.0)(
        decoded[None].float(), original[None].float()
    )
    assert ms_ssim(decoded, original) == pytest.approx(reference.item(), abs=1e-3)
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pair]
    reference = compute_metrics(*images, metrics=["psnr-rgb", "ms-ssim-rgb"])
    assert psnr(decoded, original) == pytest.approx(reference["psnr-rgb"], abs=1e-5)
    assert ms_ssim(decoded, original) == pytest.approx(reference["ms-ssim-rgb"], abs=1e-6)


def test_distortion_is_the_mean_over_images(pair):
    decoded, original = pair
    metric = Distortion()
    metric.update(psnr(decoded, original), ms_ssim(decoded, original))
    metric.update(psnr(original.flip(2), original), ms_ssim(original.flip(2), original))
    values = metric.compute()
    assert values["psnr"].item() == pytest.approx(
        (psnr(decoded, original) + psnr(original.flip(2), original)) / 2
    )
    assert values["ms_ssim"].item() == pytest.approx(
        (ms_ssim(decoded, original) + ms_ssim(original.flip(2), original)) / 2
    )


def test_lossless_and_small_images(pair):
    _, original = pair
    assert psnr(original, original) == math.inf
    assert ms_ssim(original, original) == pytest.approx(1)
    assert math.isnan(ms_ssim(original[:, :160], original[:, :160]))
    assert not math.isnan(ms_ssim(original[:, :161, :161], original[:, :161, :161]))
    metric = Distortion()
    metric.update(psnr(original[:, :9], original[:, 1:10]), ms_ssim(original[:, :9], original[:, 1:10]))
    assert math.isnan(metric.compute()["ms_ssim"].item())


def test_pairs_that_do_not_fit_are_rejected(pair):
    decoded, original = pair
    with pytest.raises(ArgumentError, match="equal size"):
        psnr(decoded[:, 1:], original)
    with pytest.raises(ArgumentError, match="uint8"):
        psnr(decoded.float(), original.float())
