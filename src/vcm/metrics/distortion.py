"""Distortion of decoded images: PSNR and MS-SSIM, in RGB."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from vcm.errors import ArgumentError

MS_SSIM_MIN_SIDE = 161
"""Five scales of an 11-tap window need more than (11 − 1)·2⁴ pixels per side."""


def psnr(decoded: Tensor, original: Tensor) -> float:
    """Compute the PSNR in dB, 10·log₁₀(255² / MSE) over all samples of an RGB image.

    Args:
        decoded: Decoded image (3, H, W), uint8.
        original: Original image (3, H, W), uint8.

    Returns:
        The PSNR; infinity if the images are equal.

    Raises:
        ArgumentError: If the shapes differ or an image is not uint8.
    """
    _check_pair(decoded, original)
    # Squared byte differences sum exactly in int64, on any device and with any number of threads.
    difference = decoded.to(torch.int64) - original.to(torch.int64)
    squared_error = int((difference * difference).sum())
    if squared_error == 0:
        return float("inf")
    return float(
        10 * torch.log10(torch.tensor(255**2 * difference.numel() / squared_error, dtype=torch.float64))
    )


def ms_ssim(decoded: Tensor, original: Tensor) -> float:
    """Compute MS-SSIM in [0, 1] (Wang, Simoncelli, Bovik, 2003), with the same implementation as CompressAI.

    Args:
        decoded: Decoded image (3, H, W), uint8.
        original: Original image (3, H, W), uint8.

    Returns:
        The MS-SSIM; NaN if a side is below 161 pixels, for which five scales are undefined.

    Raises:
        ArgumentError: If the shapes differ or an image is not uint8.
    """
    _check_pair(decoded, original)
    if min(original.shape[1:]) < MS_SSIM_MIN_SIDE:
        return float("nan")
    from pytorch_msssim import ms_ssim as reference

    # Channels-last layout gives the same value in half the time.
    pair = [
        image[None].float().contiguous(memory_format=torch.channels_last) for image in (decoded, original)
    ]
    return float(reference(*pair, data_range=255))


class Distortion(Metric):
    """Mean PSNR and mean MS-SSIM over images.

    The values of the images are averaged with equal weight. One lossless image makes the mean PSNR infinite.
    Images that are too small for MS-SSIM are excluded from its mean.
    """

    full_state_update = False
    sum_psnr: Tensor
    sum_ms_ssim: Tensor
    num_psnr: Tensor
    num_ms_ssim: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("psnr", "ms_ssim"):
            self.add_state(f"sum_{name}", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"num_{name}", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, psnr: float, ms_ssim: float) -> None:
        """Add the values of one image: PSNR in dB, MS-SSIM in [0, 1] or NaN."""
        self.sum_psnr += psnr
        self.num_psnr += 1
        if not math.isnan(ms_ssim):
            self.sum_ms_ssim += ms_ssim
            self.num_ms_ssim += 1

    def compute(self) -> dict[str, Tensor]:
        """Return `psnr` in dB and `ms_ssim`; NaN if no image has a value."""
        return {
            "psnr": self.sum_psnr / self.num_psnr.double(),
            "ms_ssim": self.sum_ms_ssim / self.num_ms_ssim.double(),
        }


class _ImageMetric(Metric):
    """Mean over images of a function of decoded and original image."""

    full_state_update = False
    total: Tensor
    num_images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]) -> None:
        """Add images.

        Args:
            preds: Decoded images, uint8 RGB: (3, H, W), (N, 3, H, W), or a sequence of (3, H, W).
            target: Original images of the same shapes.

        Raises:
            ArgumentError: If numbers, shapes or types do not match.
        """
        decoded, original = _image_list(preds), _image_list(target)
        if len(decoded) != len(original):
            raise ArgumentError("preds", expected=f"{len(original)} images, as in target", got=len(decoded))
        for pair in zip(decoded, original, strict=True):
            value = self._value(*pair)
            if not math.isnan(value):
                self.total += value
                self.num_images += 1

    def compute(self) -> Tensor:
        """Return the mean, float64; NaN if no image has a value."""
        return self.total / self.num_images.double()

    @abstractmethod
    def _value(self, decoded: Tensor, original: Tensor) -> float:
        """Return the value of one image; NaN if it has none."""


class PSNR(_ImageMetric):
    """Mean PSNR in dB over images; infinite if an image is lossless.

    Example:
        >>> import torch
        >>> metric = PSNR()
        >>> target = torch.full((3, 8, 8), 100, dtype=torch.uint8)
        >>> metric.update(target + 5, target)
        >>> round(float(metric.compute()), 2)
        34.15
    """

    def _value(self, decoded: Tensor, original: Tensor) -> float:
        return psnr(decoded, original)


class MSSSIM(_ImageMetric):
    """Mean MS-SSIM over images (Wang et al., Asilomar 2003); sides below 161 pixels are skipped."""

    def _value(self, decoded: Tensor, original: Tensor) -> float:
        return ms_ssim(decoded, original)


def _image_list(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [images] if isinstance(images, Tensor) and images.ndim == 3 else list(images)


def _check_pair(decoded: Tensor, original: Tensor) -> None:
    if decoded.shape != original.shape or original.ndim != 3 or original.shape[0] != 3:
        raise ArgumentError(
            "decoded, original",
            expected="two images (3, H, W) of equal size",
            got=(tuple(decoded.shape), tuple(original.shape)),
        )
    if decoded.dtype != torch.uint8 or original.dtype != torch.uint8:
        raise ArgumentError("decoded, original", expected="uint8", got=(decoded.dtype, original.dtype))
