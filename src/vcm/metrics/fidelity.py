"""Fidelity of a codec proxy."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional import spearman_corrcoef
from torchmetrics.utilities import dim_zero_cat

_SMALLEST_MSE = 1e-10


class ProxyFidelity(Metric):
    """Fidelity of a proxy to its codec, over images and qualities.

    - `psnr`: mean PSNR between the proxy's and the codec's decoded images, in dB.
    - `rate_error`: mean of |r_p − r| / r.
    - `rate_rank`: Spearman's rank correlation of r_p and r over all images and qualities.
    - `rate_rank_within`: mean over qualities of the rank correlation at each quality, which shows whether the
      proxy knows which images are expensive; NaN if no quality has two images.

    Without any images, all values are NaN.
    """

    full_state_update = False
    psnrs: list[Tensor]
    rates: list[Tensor]
    codec_rates: list[Tensor]
    qualities: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("psnrs", "rates", "codec_rates", "qualities"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(
        self, decoded: Tensor, bpp: Tensor, codec_decoded: Tensor, codec_bpp: Tensor, quality: float
    ) -> None:
        """Add images of one quality.

        Args:
            decoded: The proxy's images (N, 3, H, W).
            bpp: The proxy's rates (N,).
            codec_decoded: The codec's images (N, 3, H, W) in [0, 1].
            codec_bpp: The codec's rates (N,), above 0.
            quality: Quality of the codec.
        """
        mse = (decoded.float().clamp(0, 1) - codec_decoded).pow(2).mean(dim=(1, 2, 3))
        self.psnrs.append(-10 * mse.clamp(min=_SMALLEST_MSE).log10())
        self.rates.append(bpp.float())
        self.codec_rates.append(codec_bpp)
        self.qualities.append(torch.full_like(codec_bpp, quality))

    def compute(self) -> dict[str, Tensor]:
        """Return all values by name."""
        nothing = torch.tensor(float("nan"), device=self.device)
        if len(self.rates) == 0:
            return dict.fromkeys(("psnr", "rate_error", "rate_rank", "rate_rank_within"), nothing)
        rates, codec_rates = dim_zero_cat(self.rates), dim_zero_cat(self.codec_rates)
        qualities = dim_zero_cat(self.qualities)
        within = [
            spearman_corrcoef(rates[same], codec_rates[same])
            for quality in qualities.unique()  # type: ignore[no-untyped-call]  # torch
            if (same := qualities == quality).sum() > 1
        ]
        return {
            "psnr": dim_zero_cat(self.psnrs).mean(),
            "rate_error": ((rates - codec_rates).abs() / codec_rates).mean(),
            "rate_rank": spearman_corrcoef(rates, codec_rates),
            "rate_rank_within": torch.stack(within).mean() if within else nothing,
        }
