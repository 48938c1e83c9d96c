"""Bjøntegaard deltas between two rate–accuracy or rate–distortion curves."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import fmean
from typing import Any, Literal

import numpy as np

from vcm.errors import ArgumentError

Method = Literal["akima", "pchip", "cubic"]
Curve = Sequence[tuple[float, float]]
"""Points (rate in bits per pixel, quality) in any order; quality is an accuracy, dB, …"""

LEVEL = (2.5, 97.5)
"""Percentiles at the ends of an interval."""
MIN_OVERLAP = 0.5
"""Minimum overlap of two curves for a delta, in [0, 1]."""
CAUTION_OVERLAP = 0.75
"""Overlap below which a delta comes with a note, in [0, 1]."""
DIP_TOLERANCE = 0.02
"""Largest dip in quality that is levelled, relative to the curve's range of quality."""
FIT_TOLERANCE = 0.1
"""Largest distance of a fit from its points, in decades of rate or relative to the range of quality."""
MIN_POINTS = {"akima": 3, "pchip": 3, "cubic": 4}


@dataclass(frozen=True)
class BDResult:
    """A Bjøntegaard delta, or the reason why it is undefined.

    Attributes:
        value: BD-rate in percent (negative: the test curve needs fewer bits), or BD-metric in the metric's
            unit (positive: the test curve is better); None if undefined.
        note: Why `value` is None, or a caution (little overlap, levelled dip); empty if there is none.
        overlap: Shared range of the two curves, relative to the range that they cover together, in [0, 1].
    """

    value: float | None
    note: str
    overlap: float

    def __str__(self) -> str:
        number = "n/a" if self.value is None else f"{self.value:+.1f}"
        return f"{number} ({self.note})" if self.note else number


@dataclass(frozen=True)
class BDInterval:
    """Confidence interval of a BD-rate from resamples.

    Attributes:
        ends: 2.5th and 97.5th percentile in percent of rate; None if fewer than half of the resamples have a
            BD-rate.
        num_undefined: Number of resamples without a BD-rate, which the percentiles ignore.
        num_resamples: Number of resamples.
    """

    ends: tuple[float, float] | None
    num_undefined: int
    num_resamples: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval shows which of the two curves needs fewer bits."""
        return self.ends is not None and (self.ends[0] > 0 or self.ends[1] < 0)


def bd_rate(anchor: Curve, test: Curve, *, method: Method = "pchip", noise: float = 0.0) -> BDResult:
    """Compute the mean rate difference at equal quality, in percent (Bjøntegaard, VCEG-M33, on log rate).

    Each curve must rise in both rate and quality. If quality falls or stays constant while rate rises, by at
    most 2 % of the curve's range of quality or `noise`, the points are levelled by isotonic regression (pool
    adjacent violators): they are replaced by their mean quality at their geometric mean rate, and `note`
    reports it. A larger fall leaves the delta undefined.

    The delta is also undefined if the two curves share less than half of the quality range that they cover
    together, or if a fit ("cubic" or "akima") is not monotone or passes far from its points. With an overlap
    below 75 %, the delta comes with a note.

    Args:
        anchor: Reference curve with at least 3 points (4 for "cubic").
        test: Curve to compare with it.
        method: Interpolation: "pchip" and "akima" are piecewise, "cubic" is a single polynomial.
        noise: Uncertainty of a point's quality, such as half its confidence interval.

    Raises:
        ArgumentError: If `method` is unknown or a rate is not positive.
    """
    return _delta(anchor, test, method, noise, of_rate=True)


def bd_rate_interval(
    anchors: Sequence[Curve], tests: Sequence[Curve], *, method: Method = "pchip", noise: float = 0.0
) -> BDInterval:
    """Compute the 95 % interval of `bd_rate` over resamples of the images (percentile bootstrap).

    Args:
        anchors: The anchor's curve on each resample, at least one.
        tests: The test curve on each resample, paired with `anchors`: the same images at the same index.
        method: See `bd_rate`.
        noise: See `bd_rate`.

    Raises:
        ArgumentError: If the numbers of curves differ, `method` is unknown or a rate is not positive.
    """
    if len(anchors) != len(tests) or not tests:
        raise ArgumentError("tests", expected=f"one curve for each of {len(anchors)} anchors", got=len(tests))
    rates = [bd_rate(*pair, method=method, noise=noise).value for pair in zip(anchors, tests, strict=True)]
    defined = [rate for rate in rates if rate is not None]
    num_undefined = len(rates) - len(defined)
    if num_undefined > len(rates) / 2:
        return BDInterval(None, num_undefined, len(rates))
    low, high = np.percentile(defined, LEVEL)
    return BDInterval((float(low), float(high)), num_undefined, len(rates))


def bd_metric(anchor: Curve, test: Curve, *, method: Method = "pchip", noise: float = 0.0) -> BDResult:
    """Compute the mean quality difference at equal rate, in the metric's unit; see `bd_rate`.

    Args:
        anchor: Reference curve of (bits per pixel, quality) points.
        test: The other curve.
        method: Interpolation, as in `bd_rate`.
        noise: Uncertainty of a point's quality, as in `bd_rate`.

    Raises:
        ArgumentError: If `method` is unknown or a rate is not positive.
    """
    return _delta(anchor, test, method, noise, of_rate=False)


def _delta(anchor: Curve, test: Curve, method: Method, noise: float, *, of_rate: bool) -> BDResult:
    import bjontegaard

    if method not in MIN_POINTS:
        raise ArgumentError("method", expected=f"one of {', '.join(MIN_POINTS)}", got=method)
    curves = {
        name: sorted((float(rate), float(quality)) for rate, quality in curve)
        for name, curve in (("anchor", anchor), ("test", test))
    }
    notes = []
    for name, curve in curves.items():
        if any(not rate > 0 for rate, _ in curve):
            raise ArgumentError(name, expected="a curve of positive rates", got=[rate for rate, _ in curve])
        curves[name], note = levelled(curve, noise)
        notes += [f"{name} curve {note}"] if note else []
        if flaw := _flaw(curves[name], MIN_POINTS[method]):
            return BDResult(None, f"{name} curve {flaw}", math.nan)
    axis = 1 if of_rate else 0
    overlap = _overlap(*([point[axis] for point in curve] for curve in curves.values()), log=not of_rate)
    if overlap == 0:
        return BDResult(None, f"the curves share no {'quality' if of_rate else 'rate'}", 0.0)
    if overlap < MIN_OVERLAP:
        return BDResult(
            None, f"the curves overlap by {overlap:.0%} only, less than {MIN_OVERLAP:.0%}", overlap
        )
    function = bjontegaard.bd_rate if of_rate else bjontegaard.bd_psnr
    columns = [[point[i] for point in curve] for curve in curves.values() for i in (0, 1)]
    with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", UserWarning)  # about little overlap, which the note reports
        delta, *fits = function(
            *columns, method=method, require_matching_points=False, min_overlap=0, interpolators=True
        )
        value = float(delta)
    for (name, curve), fit in zip(curves.items(), fits, strict=True):
        if flaw := _misfit(fit, curve, of_rate=of_rate):
            return BDResult(None, f"{name} curve: the {method} fit {flaw}; use pchip", overlap)
    if not math.isfinite(value):
        return BDResult(
            None, f"the {method} curves through these points run out of the range of numbers", overlap
        )
    notes += [] if overlap >= CAUTION_OVERLAP else [f"the curves overlap by {overlap:.0%} only"]
    return BDResult(value, "; ".join(notes), overlap)


def levelled(curve: Curve, noise: float = 0.0) -> tuple[list[tuple[float, float]], str]:
    """Level small dips of a curve by isotonic regression (pool adjacent violators).

    Args:
        curve: Points (rate, quality) by ascending rate.
        noise: Uncertainty of a point's quality.

    Returns:
        Points of rising quality, and a note ("dips by …"). The curve itself and an empty note if nothing
        dips, if quality falls by more than `DIP_TOLERANCE` of its range and `noise`, or if a value is not
        finite.
    """
    qualities = [quality for _, quality in curve]
    if len(curve) < 2 or not all(math.isfinite(value) for point in curve for value in point):
        return list(curve), ""
    best = list(accumulate(qualities, max))
    falls = [high - quality for high, quality in zip(best, qualities, strict=True)]
    is_rising = all(later > earlier for earlier, later in pairwise(qualities))
    tolerance = max(noise, DIP_TOLERANCE * (max(qualities) - min(qualities)))
    if is_rising or max(falls) > tolerance:
        return list(curve), ""
    blocks: list[list[tuple[float, float]]] = []
    for point in curve:
        blocks.append([point])
        while len(blocks) > 1 and _mean(blocks[-2])[1] >= _mean(blocks[-1])[1]:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    worst = max(range(len(falls)), key=falls.__getitem__)
    fall = f"dips by {falls[worst]:.2g}" if falls[worst] > 0 else "does not rise"
    where = curve[worst if falls[worst] > 0 else next(i for i, b in enumerate(blocks) if len(b) > 1)][0]
    return [_mean(block) for block in blocks], f"{fall} at {where:.4g} bpp: levelled by a monotone fit"


def upper_envelope(curve: Curve) -> list[tuple[float, float]]:
    """Keep the points that no point of lower rate reaches in quality.

    Args:
        curve: Points (rate, quality) in any order.

    Returns:
        Points of rising rate and quality, with the best one of equal rates. Points that are not finite are
        removed.
    """
    kept: list[tuple[float, float]] = []
    finite = [point for point in curve if all(map(math.isfinite, point))]
    for rate, quality in sorted(finite, key=lambda point: (point[0], -point[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((rate, quality))
    return kept


def within_reach(anchor: Curve, test: Curve) -> list[tuple[float, float]]:
    """Cut a rising anchor to the test curve's range of quality, plus one point at either end.

    Otherwise a wide anchor would make the overlap with a narrow test curve small.

    Args:
        anchor: Points of rising quality.
        test: Points of rising quality, at least one.

    Returns:
        The anchor's points, at least three if it has as many.
    """
    low, high = min(quality for _, quality in test), max(quality for _, quality in test)
    first = max(sum(quality < low for _, quality in anchor) - 1, 0)
    last = len(anchor) - max(sum(quality > high for _, quality in anchor) - 1, 0)
    while last - first < MIN_POINTS["pchip"] and (first > 0 or last < len(anchor)):
        first, last = max(first - 1, 0), min(last + 1, len(anchor))
    return list(anchor[first:last])


def _mean(block: Curve) -> tuple[float, float]:
    """Return the geometric mean of the rates and the mean of the qualities."""
    if len(block) == 1:
        return block[0]
    rates, qualities = zip(*block, strict=True)
    return math.exp(fmean(map(math.log, rates))), fmean(qualities)


def _flaw(curve: Curve, min_points: int) -> str:
    """Describe why a levelled curve has no delta; empty if it has one."""
    if any(not math.isfinite(value) for point in curve for value in point):
        return "has a point that is not finite"
    if len(curve) < min_points:
        return f"has {len(curve)} points, fewer than {min_points}"
    for (rate, quality), (next_rate, next_quality) in pairwise(curve):
        if not (next_rate > rate and next_quality > quality):
            here, there = f"{quality:.4g} at {rate:.4g} bpp", f"{next_quality:.4g} at {next_rate:.4g} bpp"
            return f"is not monotone: {here}, then {there}"
    return ""


def _misfit(fit: Callable[[Any], Any], curve: Curve, *, of_rate: bool) -> str:
    """Describe why a fit does not represent its points; empty if it does.

    Args:
        fit: log₁₀ rate as a function of quality (if `of_rate`), or quality as a function of log₁₀ rate.
        curve: The points.
        of_rate: Which of the two functions `fit` is.
    """
    points = np.array([(quality, math.log10(rate)) for rate, quality in curve])
    base, value = points.T if of_rate else points.T[::-1]
    between = np.linspace(base[0], base[-1], 1 + 32 * (len(base) - 1))
    if np.any(np.diff(fit(between)) < -1e-9 * np.ptp(value)):
        return "is not monotone"
    unit, name = (1.0, "a decade of rate") if of_rate else (float(np.ptp(value)), "the range of quality")
    far = float(np.abs(fit(base) - value).max()) / unit
    return f"passes its points by up to {far:.0%} of {name}" if far > FIT_TOLERANCE else ""


def _overlap(a: Sequence[float], b: Sequence[float], *, log: bool) -> float:
    if log:
        a, b = [math.log10(value) for value in a], [math.log10(value) for value in b]
    shared = min(max(a), max(b)) - max(min(a), min(b))
    return max(shared, 0.0) / (max(*a, *b) - min(*a, *b))
