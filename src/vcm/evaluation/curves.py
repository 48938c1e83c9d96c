"""Rate–accuracy curves and their BD-rates against an anchor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import median
from typing import TypeAlias

from vcm.errors import ArgumentError
from vcm.evaluation.labels import LABEL_KINDS, LabelKind
from vcm.evaluation.points import Point
from vcm.evaluation.results import PREFERRED_ACCURACY, Results
from vcm.metrics.bd import (
    BDInterval,
    BDResult,
    bd_metric,
    bd_rate,
    bd_rate_interval,
    upper_envelope,
    within_reach,
)

Points: TypeAlias = Sequence[tuple[float, float]]
MAX_RESAMPLES = 2000
"""Maximum number of resamples used for intervals of BD-rates."""


@dataclass(frozen=True)
class Axis:
    """Vertical axis of a rate–accuracy or rate–distortion plot.

    Attributes:
        key: "psnr", "ms_ssim_db", or a name in `Point.accuracy`.
        title: Display title with the unit.
        labels: Evaluation targets of an accuracy; None for distortions.
    """

    key: str
    title: str
    labels: LabelKind | None = None

    def value(self, point: Point) -> float:
        """Return a point's value in the axis' unit (accuracies in percent); NaN if it has none."""
        distortions = {"psnr": point.psnr, "ms_ssim": point.ms_ssim}
        return self._in_unit(distortions.get(self._figure, point.accuracy.get(self._figure)))

    def interval(self, point: Point) -> tuple[float, float] | None:
        """Return the interval of a point's value in the axis' unit; None if it has none."""
        ends = point.intervals.get(self._figure)
        return None if ends is None else (self._in_unit(ends[0]), self._in_unit(ends[1]))

    def resampled(self, point: Point) -> list[tuple[float, float]]:
        """Return a point's (rate, value) on each of the first 2000 resamples; NaN where undefined."""
        if point.resamples is None or self._figure not in point.resamples.figures:
            return []
        rates, values = point.resamples.figures["bpp"], point.resamples.figures[self._figure]
        return [
            (math.nan if rate is None else rate, self._in_unit(value))
            for rate, value in islice(zip(rates, values, strict=True), MAX_RESAMPLES)
        ]

    @property
    def _figure(self) -> str:
        """Name of the metric in a point."""
        return "ms_ssim" if self.key == "ms_ssim_db" else self.key

    def _in_unit(self, value: float | None) -> float:
        if value is None:
            return math.nan
        if self.key == "ms_ssim_db":
            return ms_ssim_in_db(value)
        return value if self.labels is None else 100 * value


@dataclass(frozen=True)
class Curve:
    """Points of one system on one axis, by ascending rate; points without a finite value are omitted.

    Attributes:
        system: Name of the curve.
        title: Display title of the curve.
        points: (rate in bits per pixel, value) pairs.
        qualities: Quality of each point on the codec's scale.
        intervals: 95 % interval of each point's value; None if it has none.
        resampled: The curve on each resample of the images; empty if a point was not resampled.
        draws: Fingerprint of the resamples; resamples of curves with equal fingerprints use the same images.
    """

    system: str
    title: str
    points: list[tuple[float, float]]
    qualities: list[float]
    intervals: list[tuple[float, float] | None]
    resampled: list[list[tuple[float, float]]]
    draws: str


@dataclass(frozen=True)
class Comparison:
    """One curve compared with the anchor.

    Attributes:
        system: Name of the curve.
        title: Display title of the curve.
        rate: BD-rate in percent.
        metric: BD-metric in the axis' unit.
        interval: Interval of the BD-rate; None if it is undefined or the curves share no resamples.
    """

    system: str
    title: str
    rate: BDResult
    metric: BDResult
    interval: BDInterval | None


def ms_ssim_in_db(value: float) -> float:
    """Return −10·log₁₀(1 − MS-SSIM), which spreads values near 1; infinity at 1."""
    return math.inf if value >= 1 else -10 * math.log10(1 - value)


def axes_of(results: Results, accuracy: str | None = None) -> list[Axis]:
    """Return the axes of an evaluation: the accuracy for each kind of labels, PSNR and MS-SSIM.

    Args:
        results: Results of the evaluation.
        accuracy: Name of the accuracy; None for the task's main one.

    Raises:
        ArgumentError: If the results do not contain this accuracy.
    """
    there = list(next(iter(results.originals.values())))
    if accuracy is None:
        accuracy = next(name for name in (*PREFERRED_ACCURACY, *there) if name in there)
    if accuracy not in there:
        raise ArgumentError("accuracy", expected=f"one of {', '.join(there)}", got=accuracy)
    names = {"truth": "ground truth", "pseudo": "pseudo-labels"}
    kinds = [kind for kind in LABEL_KINDS if kind in results.originals]
    axes = [Axis(accuracy, f"{accuracy_title(accuracy)}, {names[kind]} (%)", kind) for kind in kinds]
    return [*axes, Axis("psnr", "PSNR (dB)"), Axis("ms_ssim_db", "MS-SSIM (dB)")]


def accuracy_title(name: str) -> str:
    """Return the display name of an accuracy: "mAP@50" for "map_50", "top-1" for "top_1"."""
    if name == "map":
        return "mAP@50:95"
    if name in ("map_50", "map_75"):
        return f"mAP@{name[-2:]}"
    return name.replace("map_", "mAP ").replace("mar_", "mAR ").replace("_", "-")


def curves(points: Sequence[Point], axis: Axis) -> list[Curve]:
    """Build one curve per system, in the order of the points; points with zero rate are omitted.

    Distortions do not depend on the labels; they are taken from the kind of labels with the most images.
    """
    kind = axis.labels or max(points, key=lambda point: point.num_images).labels
    by_system: dict[str, list[Point]] = {}
    for point in sorted(points, key=lambda point: point.bpp):
        if point.labels == kind and point.bpp > 0 and math.isfinite(axis.value(point)):
            by_system.setdefault(point.system, []).append(point)
    systems = dict.fromkeys(point.system for point in points)
    return [_curve(by_system[system], axis) for system in systems if system in by_system]


def _curve(mine: Sequence[Point], axis: Axis) -> Curve:
    draws = {point.resamples.draws if point.resamples else "" for point in mine}
    every = zip(*(axis.resampled(point) for point in mine), strict=True) if len(draws) == 1 else ()
    return Curve(
        mine[0].system,
        mine[0].title,
        points=[(point.bpp, axis.value(point)) for point in mine],
        qualities=[point.quality for point in mine],
        intervals=[axis.interval(point) for point in mine],
        resampled=[[pair for pair in pairs if all(map(math.isfinite, pair))] for pairs in every],
        draws=draws.pop() if len(draws) == 1 else "",
    )


def compare(drawn: Sequence[Curve], anchor: str, *, by_envelope: bool = False) -> list[Comparison]:
    """Compare every curve with the anchor.

    Args:
        drawn: The curves, including the anchor.
        anchor: Name of the anchor.
        by_envelope: Whether to compare upper envelopes, with the anchor limited to the other curve's reach
            (see `vcm.metrics.bd`), for the curves and their resamples. Non-monotonic curves then have a
            BD-rate, too.

    Raises:
        ArgumentError: If there is no curve with the anchor's name.
    """
    by_name = {curve.system: curve for curve in drawn}
    if anchor not in by_name:
        raise ArgumentError("anchor", expected=f"one of {', '.join(by_name)}", got=anchor)
    return [_compare(curve, by_name[anchor], by_envelope) for curve in drawn if curve.system != anchor]


def _compare(curve: Curve, anchor: Curve, by_envelope: bool) -> Comparison:
    noise = 0.0 if by_envelope else noise_of(curve, anchor)
    facing = _envelopes if by_envelope else _as_they_are
    anchor_points, points = facing(anchor.points, curve.points)
    rate = bd_rate(anchor_points, points, noise=noise)
    interval = None
    if rate.value is not None and curve.resampled and anchor.resampled and curve.draws == anchor.draws:
        pairs = [facing(*pair) for pair in zip(anchor.resampled, curve.resampled, strict=True)]
        interval = bd_rate_interval([pair[0] for pair in pairs], [pair[1] for pair in pairs], noise=noise)
    whole = upper_envelope(anchor.points) if by_envelope else anchor.points
    metric = bd_metric(whole, points, noise=noise)
    return Comparison(curve.system, curve.title, rate, metric, interval)


def _as_they_are(anchor: Points, test: Points) -> tuple[Points, Points]:
    return anchor, test


def _envelopes(anchor: Points, test: Points) -> tuple[Points, Points]:
    """Return the upper envelopes of both curves, the anchor's limited to the reach of the other's."""
    anchor, test = upper_envelope(anchor), upper_envelope(test)
    return within_reach(anchor, test) if test else anchor, test


def noise_of(*drawn: Curve) -> float:
    """Return the noise of a value: half the median width of the 95 % intervals; 0 without intervals."""
    widths = [ends[1] - ends[0] for curve in drawn for ends in curve.intervals if ends is not None]
    return median(widths) / 2 if widths else 0.0
