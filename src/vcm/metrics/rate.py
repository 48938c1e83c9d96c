"""Rate, from real stream lengths."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from vcm.errors import ArgumentError


class Rate(Metric):
    """Rate of a set of images in bits per pixel, from real stream lengths.

    `bpp` is Σ bits / Σ pixels; `mean_bpp` is the mean of the per-image rates, which other projects report.
    Pixels are those of the original images, without any padding of the codec.
    """

    full_state_update = False
    num_bits: Tensor
    num_pixels: Tensor
    sum_bpp: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("num_bits", "num_pixels", "count"):
            self.add_state(state, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("sum_bpp", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, num_bytes: int, height: int, width: int) -> None:
        """Add one image.

        Args:
            num_bytes: Stream length in bytes, including headers.
            height: Height of the original image in pixels.
            width: Width of the original image in pixels.

        Raises:
            ArgumentError: If `num_bytes` is negative or a side is below 1.
        """
        if num_bytes < 0:
            raise ArgumentError("num_bytes", expected="a whole number of at least 0", got=num_bytes)
        if height < 1 or width < 1:
            raise ArgumentError("height, width", expected="whole numbers of at least 1", got=(height, width))
        self.num_bits += 8 * num_bytes
        self.num_pixels += height * width
        self.sum_bpp += 8 * num_bytes / (height * width)
        self.count += 1

    def compute(self) -> dict[str, Tensor]:
        """Return `bpp` and `mean_bpp`, float64; NaN if there are no images."""
        return {
            "bpp": self.num_bits.double() / self.num_pixels.double(),
            "mean_bpp": self.sum_bpp / self.count.double(),
        }
