"""Bootstrap confidence intervals over images.

Images are drawn with replacement, as many as there are, and every metric is recomputed on the draw
(Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). All operating points share the draws, so
their differences are those on the same images.
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
"""Significant digits of a figure on a resample."""


@dataclass(frozen=True)
class Resamples:
    """One operating point's figures on every resample.

    Attributes:
        draws: Fingerprint of the images and of how they were drawn; curves of equal ones can be paired.
        figures: By name ("bpp", "psnr", "ms_ssim", the accuracies), one a resample; None where not defined.
    """

    draws: str
    figures: dict[str, list[float | None]]


@dataclass(frozen=True, eq=False)
class Draws:
    """Which images are drawn.

    Attributes:
        indices: (1 + B, N) of images: each of them once in row 0, then B resamples.
        fingerprint: Of the images' ids and the way in which they were drawn.
    """

    indices: NDArray[np.int64]
    fingerprint: str


def draw_images(image_ids: Sequence[str], resamples: int, seed: int = SEED) -> Draws:
    """Draw from the images, in their order; none where there is only one, which could not differ."""
    count, resamples = len(image_ids), resamples if len(image_ids) > 1 else 0
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    said = canonical_json([list(image_ids), resamples, seed])
    return Draws(np.vstack([np.arange(count), drawn]), hashlib.sha256(said.encode()).hexdigest()[:16])


def resample(
    records: Sequence[Record], accuracy: Mapping[str, NDArray[np.floating[Any]]], draws: Draws
) -> Resamples | None:
    """An operating point's figures on every resample; None where nothing was drawn.

    Args:
        records: Of the images, in their order.
        accuracy: Values by name, one for each row of `draws`; those with fewer are left out.
        draws: Which images are drawn.
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
    """The interval [low, high] of each figure that has one."""
    found = {name: interval(values) for name, values in (resamples.figures if resamples else {}).items()}
    return {name: ends for name, ends in found.items() if ends is not None}


def interval(values: Sequence[float | None]) -> list[float] | None:
    """[low, high] between which 95 % of the values lie; None where fewer than half of them are finite."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite or len(finite) < len(values) / 2:
        return None
    low, high = np.percentile(finite, LEVEL)
    return [float(low), float(high)]


def _means(values: Sequence[float | None], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean on each resample over the images that have a value; NaN where none has."""
    numbers = np.array([math.nan if value is None else value for value in values])
    there = ~np.isnan(numbers)
    total, count = np.where(there, numbers, 0)[rows].sum(axis=1), there[rows].sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _rounded(values: NDArray[np.floating[Any]]) -> list[float | None]:
    return [None if math.isnan(value) else float(f"{value:.{DIGITS}g}") for value in values.tolist()]
