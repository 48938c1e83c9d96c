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
"""Points (rate in bits per pixel, quality: accuracy, dB, …), in any order."""

LEVEL = (2.5, 97.5)
"""Percentiles between which an interval lies."""
MIN_OVERLAP = 0.5
"""Least overlap of two curves that a number may rest on, in [0, 1]."""
CAUTION_OVERLAP = 0.75
"""Overlap below which a number comes with a note, in [0, 1]."""
DIP_TOLERANCE = 0.02
"""Largest dip of quality that is levelled, as a share of the curve's range of quality."""
FIT_TOLERANCE = 0.1
"""Farthest that a fit may pass its points, in decades of rate or as a share of the range of quality."""
MIN_POINTS = {"akima": 3, "pchip": 3, "cubic": 4}


@dataclass(frozen=True)
class BDResult:
    """A Bjøntegaard delta, or why there is none.

    Attributes:
        value: BD-rate in percent (negative: the test curve needs fewer bits), or BD-metric in the metric's
            unit (positive: the test curve is better); None where it is not defined.
        note: Why `value` is None, or a caution that belongs beside it (little overlap, a levelled dip); empty
            where there is nothing to say.
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


def bd_rate(anchor: Curve, test: Curve, *, method: Method = "pchip", noise: float = 0.0) -> BDResult:
    """Compute the mean rate difference at equal quality, in percent (Bjøntegaard, VCEG-M33, on log rate).

    Each curve must rise in both rate and quality. Where quality falls, or stays, while rate rises, by no more
    than 2 % of the curve's range of quality or than `noise`, the points concerned are levelled by isotonic
    regression (pool adjacent violators): they become one, of their mean quality at their geometric mean rate,
    and `note` says so. A larger fall leaves no number.

    There is no number either where the two curves share less than half of the range of quality that they
    cover together, or where a fit (by "cubic" or "akima") is not monotone or passes far from its points.
    Below 75 % of overlap the number comes with a note.

    Args:
        anchor: The curve that is compared with; at least 3 points (4 for "cubic").
        test: The curve that is compared.
        method: How points are joined: "pchip" and "akima" piecewise, "cubic" by one polynomial.
        noise: By how much a point's quality may be off, such as half its confidence interval.

    Raises:
        ArgumentError: If `method` is unknown or a rate is not positive.
    """
    return _delta(anchor, test, method, noise, of_rate=True)


def bd_rate_interval(
    anchors: Sequence[Curve], tests: Sequence[Curve], *, method: Method = "pchip", noise: float = 0.0
) -> BDInterval:
    """Interval that holds 95 % of `bd_rate` on resamples of the images (percentile bootstrap).

    Args:
        anchors: The anchor's curve on each resample, at least one.
        tests: The test curve on each; paired: on the same images as the anchor's in its place.
        method: As for `bd_rate`.
        noise: As for `bd_rate`.

    Raises:
        ArgumentError: As `bd_rate`, or if there are not as many curves of one as of the other.
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
    """Compute the mean quality difference at equal rate, in the metric's own unit; otherwise as `bd_rate`.

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
        warnings.simplefilter("ignore", UserWarning)  # little overlap: told in the note
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
        curve: Points by rising rate, (rate, quality).
        noise: By how much a point's quality may be off.

    Returns:
        Points that rise in quality, and what was done ("dips by …"). The curve and an empty text where
        nothing dips, quality falls by more than `DIP_TOLERANCE` of its range and `noise`, or a value is not
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
    """Keep the points that no cheaper point reaches: what an encoder could choose from.

    Args:
        curve: Points (rate, quality), in any order.

    Returns:
        Points by rising rate and rising quality; of equal rates the best one. Points that are not finite are
        left out.
    """
    kept: list[tuple[float, float]] = []
    finite = [point for point in curve if all(map(math.isfinite, point))]
    for rate, quality in sorted(finite, key=lambda point: (point[0], -point[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((rate, quality))
    return kept


def within_reach(anchor: Curve, test: Curve) -> list[tuple[float, float]]:
    """Cut a rising anchor to the test curve's range of quality, and one point beyond it at either end.

    So a wide anchor does not make the overlap with a narrow test curve small.

    Args:
        anchor: Points that rise in quality.
        test: Likewise, at least one.

    Returns:
        At least three points, where the anchor has as many.
    """
    low, high = min(quality for _, quality in test), max(quality for _, quality in test)
    first = max(sum(quality < low for _, quality in anchor) - 1, 0)
    last = len(anchor) - max(sum(quality > high for _, quality in anchor) - 1, 0)
    while last - first < MIN_POINTS["pchip"] and (first > 0 or last < len(anchor)):
        first, last = max(first - 1, 0), min(last + 1, len(anchor))
    return list(anchor[first:last])


def _mean(block: Curve) -> tuple[float, float]:
    """Geometric mean of the rates, mean of the qualities."""
    if len(block) == 1:
        return block[0]
    rates, qualities = zip(*block, strict=True)
    return math.exp(fmean(map(math.log, rates))), fmean(qualities)


def _flaw(curve: Curve, min_points: int) -> str:
    """What keeps a levelled curve from having a delta; empty where nothing does."""
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
    """What keeps a fitted curve from standing for its points; empty where nothing does.

    Args:
        fit: log₁₀ rate over quality (`of_rate`), or quality over log₁₀ rate.
        curve: Its points.
        of_rate: Which of the two it is.
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
