"""What a report is about: one evaluation or several as one, and its curves against an anchor's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vcm.errors import ArgumentError, EvaluationError
from vcm.evaluation.curves import Axis, Comparison, Curve, axes_of, compare, curves
from vcm.evaluation.report.table import Table, bd_table
from vcm.evaluation.results import Results


@dataclass(frozen=True)
class Study:
    """Evaluations of one task and data set, compared.

    Attributes:
        results: Of all of them.
        folders: Where they come from.
        anchor: The system that others are compared with.
        accuracy: Name of the accuracy that was asked for; None for the task's main one.
        curves: On every axis that has any.
        comparisons: With the anchor on each of these axes, by system.
    """

    results: Results
    folders: list[Path]
    anchor: str
    accuracy: str | None
    curves: list[tuple[Axis, list[Curve]]]
    comparisons: list[tuple[Axis, dict[str, Comparison]]]

    @property
    def titles(self) -> dict[str, str]:
        """Every system's name for people."""
        return {point.system: point.title for point in self.results.points}

    def bd_table(self, *, of_rate: bool) -> Table:
        """BD-rates (`of_rate`), or BD-metrics, of every system but the anchor."""
        return bd_table(self.comparisons, self.titles, self.anchor, of_rate=of_rate)


def read_study(
    folders: Sequence[str | Path], *, anchor: str | None = None, accuracy: str | None = None
) -> Study:
    """Read what was evaluated, and compare it.

    Args:
        folders: Folders that `vcm evaluate` wrote; taken together; they must share task and data.
        anchor: The system that others are compared with; None for "bpg" where it is there, else the first.
        accuracy: Name of the accuracy to compare at, such as "map_50"; None for the task's main one.

    Raises:
        EvaluationError: If a folder holds no results, or they do not belong together.
        ArgumentError: If there is no folder, or no such anchor or accuracy.
    """
    if not folders:
        raise ArgumentError("folders", expected="at least one folder of results", got="none")
    sources = [Path(folder) for folder in folders]
    results = merge([Results.read(source) for source in sources], sources)
    systems = list(dict.fromkeys(point.system for point in results.points))
    if anchor is None:
        anchor = "bpg" if "bpg" in systems else systems[0]
    if anchor not in systems:
        raise ArgumentError("anchor", expected=f"one of {', '.join(systems)}", got=anchor)
    every = [(axis, curves(results.points, axis)) for axis in axes_of(results, accuracy)]
    drawn = [(axis, found) for axis, found in every if found]
    comparisons = [(axis, _compared(found, anchor)) for axis, found in drawn]
    return Study(results, sources, anchor, accuracy, drawn, comparisons)


def _compared(drawn: Sequence[Curve], anchor: str) -> dict[str, Comparison]:
    """By system; nothing where the anchor has no curve."""
    has_anchor = any(curve.system == anchor for curve in drawn)
    return {found.system: found for found in compare(drawn, anchor)} if has_anchor else {}


def merge(every: Sequence[Results], sources: Sequence[Path]) -> Results:
    """Several evaluations as one.

    Raises:
        EvaluationError: If they differ in task or data set, or both measured the same point.
    """
    first = every[0]
    points = list(first.points)
    for other, source in zip(every[1:], sources[1:], strict=True):
        if other.task != first.task or other.data != first.data:
            raise EvaluationError(
                f"{source} and {sources[0]} were measured with different tasks or pictures; "
                "report them one by one."
            )
        if other.pseudo_score != first.pseudo_score:
            raise EvaluationError(
                f"{source} and {sources[0]} were measured with pseudo_score={other.pseudo_score:g} and "
                f"{first.pseudo_score:g}, so against different pseudo-labels; report them one by one."
            )
        there = {(point.system, point.quality, point.labels) for point in points}
        twice = [point for point in other.points if (point.system, point.quality, point.labels) in there]
        if twice:
            raise EvaluationError(
                f"{source} and {sources[0]} both hold {twice[0].system} at quality {twice[0].quality:g}; "
                "name one of the systems differently."
            )
        points += other.points
    notes = list(dict.fromkeys(note for results in every for note in results.notes))
    originals = {kind: found for results in reversed(every) for kind, found in results.originals.items()}
    for kind in originals:
        counts = sorted({point.num_images for point in points if point.labels == kind})
        if len(counts) > 1:
            numbers = " and ".join(map(str, counts))
            notes.append(f"the runs passed different numbers of pictures with {kind} labels: {numbers}")
    return replace(
        first,
        points=points,
        originals=originals,
        failures=[failure for results in every for failure in results.failures],
        problems=list(dict.fromkeys(problem for results in every for problem in results.problems)),
        notes=notes,
    )
