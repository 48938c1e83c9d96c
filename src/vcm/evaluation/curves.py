"""Points to curves, and curves against an anchor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vcm.errors import ArgumentError
from vcm.evaluation.labels import LABEL_KINDS, LabelKind
from vcm.evaluation.points import Point
from vcm.evaluation.results import Results
from vcm.metrics.bd import BDResult, bd_metric, bd_rate

PREFERRED_ACCURACY = ("map", "top_1")


@dataclass(frozen=True)
class Axis:
    """What a curve shows over rate.

    Attributes:
        key: Short name: "psnr", "ms_ssim_db", or a name in `Point.accuracy`.
        title: For people, with the unit.
        labels: The labels that an accuracy is held against; None for distortions, which need none.
    """

    key: str
    title: str
    labels: LabelKind | None = None

    def value(self, point: Point) -> float:
        """The point's value in the axis' unit (accuracies in percent); NaN where it has none."""
        if self.key == "psnr":
            return math.nan if point.psnr is None else point.psnr
        if self.key == "ms_ssim_db":
            return math.nan if point.ms_ssim is None else ms_ssim_in_db(point.ms_ssim)
        accuracy = point.accuracy.get(self.key)
        return math.nan if accuracy is None else 100 * accuracy


@dataclass(frozen=True)
class Curve:
    """One system's points on one axis, by rising rate; points without a finite value are left out.

    Attributes:
        system: The curve's name.
        title: The curve's name for people.
        points: (rate in bits per pixel, value).
        qualities: Each point's place in the codec's scale.
    """

    system: str
    title: str
    points: list[tuple[float, float]]
    qualities: list[float]


@dataclass(frozen=True)
class Comparison:
    """One curve against the anchor's: BD-rate in percent and BD-metric in the axis' unit."""

    system: str
    title: str
    rate: BDResult
    metric: BDResult


def ms_ssim_in_db(value: float) -> float:
    """−10·log₁₀(1 − MS-SSIM), which spreads the values near 1; infinite at 1."""
    return math.inf if value >= 1 else -10 * math.log10(1 - value)


def axes_of(results: Results, accuracy: str | None = None) -> list[Axis]:
    """The axes that these results can be drawn on: accuracy for each kind of labels, then the distortions.

    Args:
        results: What was measured.
        accuracy: Name of the accuracy; None for the task's main one.

    Raises:
        ArgumentError: If the results have no such accuracy.
    """
    there = list(next(iter(results.originals.values())))
    if accuracy is None:
        accuracy = next(name for name in (*PREFERRED_ACCURACY, *there) if name in there)
    if accuracy not in there:
        raise ArgumentError("accuracy", expected=f"one of {', '.join(there)}", got=accuracy)
    names = {"truth": "true labels", "pseudo": "pseudo-labels"}
    kinds = [kind for kind in LABEL_KINDS if kind in results.originals]
    axes = [Axis(accuracy, f"{accuracy_title(accuracy)}, {names[kind]} (%)", kind) for kind in kinds]
    return [*axes, Axis("psnr", "PSNR (dB)"), Axis("ms_ssim_db", "MS-SSIM (dB)")]


def accuracy_title(name: str) -> str:
    """An accuracy's name for people: "map_50" is mAP@50, "top_1" is top-1."""
    if name == "map":
        return "mAP@50:95"
    if name in ("map_50", "map_75"):
        return f"mAP@{name[-2:]}"
    return name.replace("map_", "mAP ").replace("mar_", "mAR ").replace("_", "-")


def curves(points: Sequence[Point], axis: Axis) -> list[Curve]:
    """One curve a system, in the order in which the systems appear.

    Distortions do not depend on the labels; they are taken from the kind of labels with most pictures.
    """
    kind = axis.labels or max(points, key=lambda point: point.num_images).labels
    found = []
    for system in dict.fromkeys(point.system for point in points):
        mine = sorted((p for p in points if p.system == system and p.labels == kind), key=lambda p: p.bpp)
        mine = [point for point in mine if math.isfinite(axis.value(point))]
        if mine:
            values = [(point.bpp, axis.value(point)) for point in mine]
            found.append(Curve(system, mine[0].title, values, [point.quality for point in mine]))
    return found


def compare(drawn: Sequence[Curve], anchor: str) -> list[Comparison]:
    """Every other curve against the one named `anchor`.

    Raises:
        ArgumentError: If there is no curve of that name.
    """
    by_name = {curve.system: curve for curve in drawn}
    if anchor not in by_name:
        raise ArgumentError("anchor", expected=f"one of {', '.join(by_name)}", got=anchor)
    reference = by_name[anchor].points
    return [
        Comparison(
            curve.system, curve.title, bd_rate(reference, curve.points), bd_metric(reference, curve.points)
        )
        for curve in drawn
        if curve.system != anchor
    ]
