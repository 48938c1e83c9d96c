"""A study: one or several evaluations, with curves compared with an anchor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from vcm.errors import ArgumentError
from vcm.evaluation.curves import (
    MAX_RESAMPLES,
    Axis,
    Comparison,
    Curve,
    accuracy_title,
    axes_of,
    compare,
    curves,
)
from vcm.evaluation.points import Point
from vcm.evaluation.report.sources import Source, merge, name_systems, read_sources
from vcm.evaluation.report.table import Table, bd_table
from vcm.evaluation.results import Results
from vcm.files import printable

MAX_SYSTEMS = 32
"""Most systems that a report shows."""
MAX_POINTS = 256
"""Most points of a system that a report shows, for each kind of labels."""
MAX_LISTED = 20
"""Most names that an error lists."""


@dataclass(frozen=True)
class Study:
    """Evaluations of one task and dataset, compared.

    Attributes:
        results: Merged results, limited to the codecs and points that the report shows.
        sources: Runs that were merged.
        home: First folder, the default place of the report.
        anchor: Name of the codec that others are compared with.
        accuracy: Name of the requested accuracy; None for the task's main one.
        curves: Curves by axis.
        comparisons: Comparisons with the anchor on each of these axes, by codec.
    """

    results: Results
    sources: list[Source]
    home: Path
    anchor: str
    accuracy: str | None
    curves: list[tuple[Axis, list[Curve]]]
    comparisons: list[tuple[Axis, dict[str, Comparison]]]

    @property
    def folders(self) -> list[Path]:
        """Folders of the runs."""
        return [source.folder for source in self.sources]

    @property
    def titles(self) -> dict[str, str]:
        """Display title of each codec."""
        return {point.system: point.title for point in self.results.points}

    @property
    def main(self) -> int:
        """Index of the main comparison: the accuracy with the most BD-rates, or else the distortion."""

        def rank(number: int) -> tuple[bool, int]:
            axis, by_system = self.comparisons[number]
            count = sum(found.rate.value is not None for found in by_system.values())
            return axis.labels is not None and count > 0, count

        return max(range(len(self.comparisons)), key=rank, default=0)

    def bd_table(self, *, of_rate: bool) -> Table:
        """Build the table of BD-rates (`of_rate`) or BD-metrics."""
        return bd_table(self.comparisons, self.titles, self.anchor, of_rate=of_rate, main=self.main)


def read_study(
    folders: Sequence[str | Path],
    *,
    anchor: str | None = None,
    accuracy: str | None = None,
    names: Mapping[str, str] | None = None,
) -> Study:
    """Read evaluations and compare their curves.

    Args:
        folders: Run folders of `vcm evaluate`, or folders that contain several; all must share task and data.
        anchor: Name or title of the codec that others are compared with; None for "bpg" if there is one, else
            the first.
        accuracy: Name or title of the accuracy to compare at, such as "map_50" or "mAP@50"; None for the
            task's main one.
        names: Labels of runs, by path; see `read_sources`.

    Raises:
        EvaluationError: If a folder contains no results, or tasks or data differ.
        ArgumentError: If there is no folder, or the anchor, accuracy or run does not exist.
    """
    sources = name_systems(read_sources(folders, names))
    return make_study(sources, Path(folders[0]), anchor=anchor, accuracy=accuracy)


def make_study(
    sources: list[Source], home: Path, *, anchor: str | None = None, accuracy: str | None = None
) -> Study:
    """Compare the curves of runs whose codecs have their final names.

    Args:
        sources: Runs to compare.
        home: Default place of the report.
        anchor: See `read_study`.
        accuracy: See `read_study`.

    Raises:
        EvaluationError: If tasks or data of the runs differ.
        ArgumentError: If the anchor or accuracy does not exist.
    """
    results = merge(sources)
    titles = {point.system: point.title for point in results.points}
    if anchor is None:
        anchor = "bpg" if "bpg" in titles else next(iter(titles))
    anchor = _chosen("anchor", anchor, titles)
    if accuracy is not None:
        accuracies = {name: accuracy_title(name) for name in next(iter(results.originals.values()))}
        accuracy = _chosen("accuracy", accuracy, accuracies)
    results = _bounded(results, anchor)
    every = [(axis, curves(results.points, axis)) for axis in axes_of(results, accuracy)]
    drawn = [(axis, found) for axis, found in every if found]
    comparisons = [(axis, _compared(found, anchor)) for axis, found in drawn]
    return Study(results, sources, home, anchor, accuracy, drawn, comparisons)


def _chosen(argument: str, given: str, titles: Mapping[str, str]) -> str:
    """Resolve a key or title, in any letter case, to a key.

    Raises:
        ArgumentError: If there is no match, or several; the message gives the nearest.
    """
    if given in titles:
        return given
    wanted = " ".join(given.casefold().split())
    by_name: dict[str, list[str]] = {}
    for key, title in titles.items():
        for name in {key.casefold(), " ".join(title.casefold().split())}:
            by_name.setdefault(name, []).append(key)
    meant = by_name.get(wanted, [])
    if len(meant) == 1:
        return meant[0]
    near = get_close_matches(wanted, by_name, n=1, cutoff=0.5)
    listed = [printable(key) for key in list(titles)[:MAX_LISTED]]
    raise ArgumentError(
        argument,
        expected=f"one of {', '.join(listed)}" + (", …" if len(titles) > len(listed) else ""),
        got=given,
        remedy=f"{', '.join(meant)} all have this title; give one of these keys."
        if meant
        else (f"Did you mean {by_name[near[0]][0]!r}?" if near else ""),
    )


def _bounded(results: Results, anchor: str) -> Results:
    """Limit codecs and points to what a report can show, with notes on omissions; keeps the anchor."""
    systems = list(dict.fromkeys(point.system for point in results.points))
    others = [system for system in systems if system != anchor]
    kept = {anchor, *others[: MAX_SYSTEMS - 1]}
    notes = list(results.notes)
    if len(systems) > len(kept):
        notes.append(
            f"the report shows the first {len(kept)} of {len(systems)} systems; results.csv has them all"
        )
    points: list[Point] = []
    counts: Counter[tuple[str, str]] = Counter()
    for point in results.points:
        counts[point.system, point.labels] += 1
        if point.system in kept and counts[point.system, point.labels] <= MAX_POINTS:
            points.append(point)
    if most := [system for (system, _), count in counts.items() if system in kept and count > MAX_POINTS]:
        notes.append(f"the report shows the first {MAX_POINTS} points of {', '.join(dict.fromkeys(most))}")
    counted = max((len(p.resamples.figures["bpp"]) for p in points if p.resamples), default=0)
    if counted > MAX_RESAMPLES:
        notes.append(f"intervals of BD-rates are from the first {MAX_RESAMPLES} of {counted} resamples")
    return replace(results, points=points, notes=notes)


def _compared(drawn: Sequence[Curve], anchor: str) -> dict[str, Comparison]:
    """Compare curves by name; empty if the anchor has no curve."""
    has_anchor = any(curve.system == anchor for curve in drawn)
    return {found.system: found for found in compare(drawn, anchor)} if has_anchor else {}
