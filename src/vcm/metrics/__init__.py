"""Rate, distortion and task accuracy as torchmetrics metrics, and BD-rate."""

from typing import TYPE_CHECKING

from vcm.lazy_imports import lazy_names

if TYPE_CHECKING:
    from vcm.metrics.bd import BDResult, bd_metric, bd_rate, bd_rate_interval
    from vcm.metrics.classification import TopKAccuracy
    from vcm.metrics.detection import DetectionAccuracy
    from vcm.metrics.distortion import MSSSIM, PSNR, ms_ssim, psnr
    from vcm.metrics.rate import Rate

__all__ = [
    "MSSSIM",
    "PSNR",
    "BDResult",
    "DetectionAccuracy",
    "Rate",
    "TopKAccuracy",
    "bd_metric",
    "bd_rate",
    "bd_rate_interval",
    "ms_ssim",
    "psnr",
]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("BDResult", "bd_metric", "bd_rate", "bd_rate_interval"), "vcm.metrics.bd"),
        **dict.fromkeys(("MSSSIM", "PSNR", "ms_ssim", "psnr"), "vcm.metrics.distortion"),
        "DetectionAccuracy": "vcm.metrics.detection",
        "Rate": "vcm.metrics.rate",
        "TopKAccuracy": "vcm.metrics.classification",
    },
)
