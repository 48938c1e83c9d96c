"""Bootstrap confidence intervals over images.

Images are drawn with replacement, as many as the dataset has, and every metric is recomputed on the draw
(Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). All operating points share the draws, so
their differences are paired.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm.evaluation.records import Record, canonical_json
from vcm.metrics.bd import LEVEL

SEED = 1
DIGITS = 7
"""Significant digits of stored resampled values."""


@dataclass(frozen=True)
class Resamples:
    """Metric values of one operating point on every resample.

    Attributes:
        draws: Fingerprint of the images and the draws; curves with equal fingerprints can be compared in
            pairs.
        figures: One value per resample by name ("bpp", "psnr", "ms_ssim", accuracies); None where undefined.
    """

    draws: str
    figures: dict[str, list[float | None]]


@dataclass(frozen=True, eq=False)
class Draws:
    """Image indices of all resamples.

    Attributes:
        indices: Image indices (1 + B, N): every image once in row 0, then B resamples.
        fingerprint: Hash of the image ids, the number of resamples and the seed.
    """

    indices: NDArray[np.int64]
    fingerprint: str


def draw_images(image_ids: Sequence[str], resamples: int, seed: int = SEED) -> Draws:
    """Draw resamples of the images. There are none for a single image, since they could not differ."""
    count, resamples = len(image_ids), resamples if len(image_ids) > 1 else 0
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    said = canonical_json([list(image_ids), resamples, seed])
    return Draws(np.vstack([np.arange(count), drawn]), hashlib.sha256(said.encode()).hexdigest()[:16])


def resample(
    records: Sequence[Record], accuracy: Mapping[str, NDArray[np.floating[Any]]], draws: Draws
) -> Resamples | None:
    """Compute the metrics of an operating point on every resample.

    Args:
        records: Records of the images, in the order that `draws` indexes.
        accuracy: Accuracies by name, one per row of `draws`; those of another length are skipped.
        draws: Image indices of the resamples.

    Returns:
        The values; None if there are no resamples.
    """
    rows = draws.indices[1:]
    if len(rows) == 0:
        return None
    bits = np.array([8 * record.num_bytes for record in records])
    pixels = np.array([record.height * record.width for record in records])
    figures = {
        "bpp": bits[rows].sum(axis=1) / pixels[rows].sum(axis=1),
        "psnr": _means([record.psnr for record in records], rows),
        "ms_ssim": _means([record.ms_ssim for record in records], rows),
        **{name: values[1:] for name, values in accuracy.items() if len(values) == len(draws.indices)},
    }
    return Resamples(draws.fingerprint, {name: _rounded(values) for name, values in figures.items()})


def intervals_of(resamples: Resamples | None) -> dict[str, list[float]]:
    """Return the 95 % interval [low, high] of each metric that has one."""
    found = {name: interval(values) for name, values in (resamples.figures if resamples else {}).items()}
    return {name: ends for name, ends in found.items() if ends is not None}


def interval(values: Sequence[float | None]) -> list[float] | None:
    """Return the central 95 % interval [low, high]; None if fewer than half of the values are finite."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite or len(finite) < len(values) / 2:
        return None
    low, high = np.percentile(finite, LEVEL)
    return [float(low), float(high)]


def _means(values: Sequence[float | None], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean over the images with a value on each resample; NaN if there are none."""
    numbers = np.array([math.nan if value is None else value for value in values])
    there = ~np.isnan(numbers)
    total, count = np.where(there, numbers, 0)[rows].sum(axis=1), there[rows].sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _rounded(values: NDArray[np.floating[Any]]) -> list[float | None]:
    return [None if math.isnan(value) else float(f"{value:.{DIGITS}g}") for value in values.tolist()]
