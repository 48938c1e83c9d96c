"""Join runs of a sweep with one operating point each to curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vcm.errors import ArgumentError
from vcm.evaluation.points import Point
from vcm.evaluation.report.sources import Source, signature, systems_of


@dataclass(frozen=True)
class SweptRun:
    """One evaluation of a sweep.

    Attributes:
        source: Run of the sweep.
        swept: Values of the settings in which the sweep's runs differ, by name.
    """

    source: Source
    swept: Mapping[str, str]


def join_runs(runs: Sequence[SweptRun], along: str | None = None) -> list[Source]:
    """Rename codecs and set qualities so that points of several runs make curves.

    A codec with equal results in all runs (an anchor) is kept once. A codec with one quality per run becomes
    one curve with a point for each run; if all runs have the same quality, the value of the setting `along`
    replaces it. Runs that differ in another setting form separate curves. Other codecs have one curve per
    run. Names of curves end with the values in which they differ.

    Args:
        runs: The runs.
        along: Name of a swept setting; None for the only one, or the only numeric one.

    Raises:
        ArgumentError: If `along` is needed and not given.
    """
    swept = list(dict.fromkeys(key for run in runs for key in run.swept))
    measured: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        for system in systems_of(run.source):
            measured.setdefault(system, []).append(number)
    changes: list[dict[str, tuple[str, float | None]]] = [{} for _ in runs]
    repeated: list[set[str]] = [set() for _ in runs]
    for system, every in measured.items():
        distinct: dict[str, int] = {}
        for number in every:
            distinct.setdefault(repr(signature(runs[number].source, system)), number)
        for number in set(every) - set(distinct.values()):
            repeated[number].add(system)
        group = [runs[number] for number in distinct.values()]
        differing = _differing(group)
        qualities = [_qualities(run, system) for run in group]
        is_joined = len(group) > 1 and all(len(own) == 1 for own in qualities)
        key = _along(along, differing, group) if is_joined else None
        values = [run.swept.get(key, "") for run in group] if key is not None else []
        if len({next(iter(own)) for own in qualities}) == len(group):
            values = []  # each quality is another one already
        for place, number in enumerate(distinct.values()):
            parts = [f"{_short(k, swept)}={runs[number].swept.get(k, '')}" for k in differing if k != key]
            changes[number][system] = (", ".join(parts), _quality(values, place) if values else None)
    return [
        _changed(run.source, *of_run)
        for run, of_run in zip(runs, zip(changes, repeated, strict=True), strict=True)
    ]


def _changed(source: Source, changes: Mapping[str, tuple[str, float | None]], repeated: set[str]) -> Source:
    """Return a run with the names and qualities of the joined curves."""
    names = {system: system for system in systems_of(source)}
    joined: dict[str, tuple[float, float]] = {}
    points: list[Point] = []
    for point in source.results.points:
        label, quality = changes.get(point.system, ("", None))
        if label:
            names[point.system] = f"{point.system} ({label})"
        if quality is not None:
            joined[point.system] = (point.quality, quality)
        if point.system not in repeated:
            title = f"{point.title} ({label})" if label else point.title
            shown = point.quality if quality is None else quality
            points.append(replace(point, system=names[point.system], title=title, quality=shown))
    results = replace(source.results, points=points)
    return replace(source, results=results, systems=names, joined=joined)


def _along(given: str | None, differing: Sequence[str], group: Sequence[SweptRun]) -> str | None:
    """Return the setting that varies along a curve; None if the given one is constant."""
    if given is not None:
        return given if given in differing else None
    numeric = [name for name in differing if all(_is_number(run.swept.get(name, "")) for run in group)]
    for names in (differing, numeric):
        if len(names) == 1:
            return names[0]
    raise ArgumentError("along", expected=f"one of {', '.join(differing)}", got=None)


def _differing(group: Sequence[SweptRun]) -> list[str]:
    """Return the settings in which runs differ."""
    names = dict.fromkeys(name for run in group for name in run.swept)
    return [name for name in names if len({run.swept.get(name, "") for run in group}) > 1]


def _qualities(run: SweptRun, system: str) -> set[float]:
    return {point.quality for point in run.source.results.points if point.system == system}


def _quality(values: Sequence[str], index: int) -> float:
    """Return a point's quality: the setting's value, or its index from 1 if values are not numbers."""
    if all(map(_is_number, values)):
        return float(values[index])
    return float(list(dict.fromkeys(values)).index(values[index]) + 1)


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


def _short(name: str, every: Sequence[str]) -> str:
    """Shorten a setting's name to its last part if that is unique."""
    last = name.rpartition(".")[2]
    return last if sum(one.rpartition(".")[2] == last for one in every) == 1 else name
