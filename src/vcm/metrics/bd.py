"""Bjøntegaard deltas between two rate–accuracy or rate–distortion curves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from vcm.errors import ArgumentError

Method = Literal["akima", "pchip", "cubic"]
Curve = Sequence[tuple[float, float]]
"""Points (rate in bits per pixel, quality: accuracy, dB, …), in any order."""

LEVEL = (2.5, 97.5)
"""Percentiles between which an interval lies."""
MIN_OVERLAP = 0.75
MIN_POINTS = {"akima": 3, "pchip": 3, "cubic": 4}


@dataclass(frozen=True)
class BDResult:
    """A Bjøntegaard delta, or why there is none.

    Attributes:
        value: BD-rate in percent (negative: the test curve needs fewer bits), or BD-metric in the metric's
            unit (positive: the test curve is better); None where it is not defined.
        note: Why `value` is None, or a caution that belongs beside it; empty where there is nothing to say.
        overlap: Shared part of the two curves' ranges, over the range of both, in [0, 1].
    """

    value: float | None
    note: str
    overlap: float

    def __str__(self) -> str:
        number = "n/a" if self.value is None else f"{self.value:+.1f}"
        return f"{number} ({self.note})" if self.note else number


@dataclass(frozen=True)
class BDInterval:
    """Where BD-rates on resamples lie.

    Attributes:
        ends: Percentiles 2.5 and 97.5, in percent of rate; None where fewer than half of the resamples have a
            BD-rate.
        num_undefined: Resamples without a BD-rate; the percentiles leave them out.
        num_resamples: All of them.
    """

    ends: tuple[float, float] | None
    num_undefined: int
    num_resamples: int

    @property
    def excludes_zero(self) -> bool:
        """Whether it tells which of the two curves needs fewer bits."""
        return self.ends is not None and (self.ends[0] > 0 or self.ends[1] < 0)


def bd_rate(anchor: Curve, test: Curve, *, method: Method = "pchip") -> BDResult:
    """Mean rate difference at equal quality, in percent (Bjøntegaard, VCEG-M33, on log rate).

    Each curve must rise strictly in both rate and quality; there is no number where one does not, or where
    the two share no quality. With less than 75 % of overlap the number comes with a note.

    Raises:
        ArgumentError: If `method` is unknown or a rate is not positive.
    """
    return _delta(anchor, test, method, of_rate=True)


def bd_rate_interval(
    anchors: Sequence[Curve], tests: Sequence[Curve], *, method: Method = "pchip"
) -> BDInterval:
    """Interval that holds 95 % of `bd_rate` on resamples of the pictures (percentile bootstrap).

    Args:
        anchors: The anchor's curve on each resample, at least one.
        tests: The test curve on each; paired: on the same pictures as the anchor's in its place.
        method: As for `bd_rate`.

    Raises:
        ArgumentError: As `bd_rate`, or if there are not as many curves of one as of the other.
    """
    if len(anchors) != len(tests) or not tests:
        raise ArgumentError("tests", expected=f"one curve for each of {len(anchors)} anchors", got=len(tests))
    rates = [bd_rate(*pair, method=method).value for pair in zip(anchors, tests, strict=True)]
    defined = [rate for rate in rates if rate is not None]
    num_undefined = len(rates) - len(defined)
    if num_undefined > len(rates) / 2:
        return BDInterval(None, num_undefined, len(rates))
    low, high = np.percentile(defined, LEVEL)
    return BDInterval((float(low), float(high)), num_undefined, len(rates))


def bd_metric(anchor: Curve, test: Curve, *, method: Method = "pchip") -> BDResult:
    """Mean quality difference at equal rate, in the metric's own unit; otherwise as `bd_rate`.

    Raises:
        ArgumentError: If `method` is unknown or a rate is not positive.
    """
    return _delta(anchor, test, method, of_rate=False)


def _delta(anchor: Curve, test: Curve, method: Method, *, of_rate: bool) -> BDResult:
    import bjontegaard

    if method not in MIN_POINTS:
        raise ArgumentError("method", expected=f"one of {', '.join(MIN_POINTS)}", got=method)
    curves = {
        name: sorted((float(rate), float(quality)) for rate, quality in curve)
        for name, curve in (("anchor", anchor), ("test", test))
    }
    for name, curve in curves.items():
        if any(not rate > 0 for rate, _ in curve):
            raise ArgumentError(name, expected="a curve of positive rates", got=[rate for rate, _ in curve])
        flaw = _flaw(curve, MIN_POINTS[method])
        if flaw:
            return BDResult(None, f"{name} curve {flaw}", math.nan)
    axis = 1 if of_rate else 0
    overlap = _overlap(*([point[axis] for point in curve] for curve in curves.values()), log=not of_rate)
    if overlap == 0:
        return BDResult(None, f"the curves share no {'quality' if of_rate else 'rate'}", 0.0)
    function = bjontegaard.bd_rate if of_rate else bjontegaard.bd_psnr
    columns = [[point[i] for point in curve] for curve in curves.values() for i in (0, 1)]
    with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", UserWarning)  # little overlap: told in the note
        value = float(function(*columns, method=method, require_matching_points=False, min_overlap=0))
    if not math.isfinite(value):
        return BDResult(
            None, f"the {method} curves through these points run out of the range of numbers", overlap
        )
    note = "" if overlap >= MIN_OVERLAP else f"the curves overlap by {overlap:.0%} only"
    return BDResult(value, note, overlap)


def _flaw(curve: Curve, min_points: int) -> str:
    """What keeps a curve, sorted by rate, from having a delta; empty where nothing does."""
    if any(not math.isfinite(value) for point in curve for value in point):
        return "has a point that is not finite"
    if len(curve) < min_points:
        return f"has {len(curve)} points, fewer than {min_points}"
    for (rate, quality), (next_rate, next_quality) in pairwise(curve):
        if not (next_rate > rate and next_quality > quality):
            here, there = f"{quality:.4g} at {rate:.4g} bpp", f"{next_quality:.4g} at {next_rate:.4g} bpp"
            return f"is not monotone: {here}, then {there}"
    return ""


def _overlap(a: Sequence[float], b: Sequence[float], *, log: bool) -> float:
    if log:
        a, b = [math.log10(value) for value in a], [math.log10(value) for value in b]
    shared = min(max(a), max(b)) - max(min(a), min(b))
    return max(shared, 0.0) / (max(*a, *b) - min(*a, *b))
