"""Runs of a report: find, name and merge them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vcm.errors import ArgumentError, EvaluationError
from vcm.evaluation.results import RESULTS_JSON, Results
from vcm.files import printable

MAX_RUNS = 256
"""Most runs that are read below one folder."""


@dataclass(frozen=True)
class Source:
    """One run.

    Attributes:
        folder: Folder of the run.
        results: Results of the run.
        label: Label that distinguishes the run's codecs from those of other runs.
        is_named: Whether the user gave the label; if not, it is only used for codecs of several runs.
        systems: New names of the run's codecs, by their own names.
        joined: For codecs with one quality per run: the quality in this run, and that on the joined curve.
    """

    folder: Path
    results: Results
    label: str
    is_named: bool
    systems: dict[str, str] = field(default_factory=dict)
    joined: dict[str, tuple[float, float]] = field(default_factory=dict)


def read_sources(folders: Sequence[str | Path], names: Mapping[str, str] | None = None) -> list[Source]:
    """Read runs; for a folder without results, all runs below it.

    Args:
        folders: Run folders, or folders of a sweep.
        names: Labels by run, as in `--name RUN=LABEL`; RUN is a path, possibly relative to a sweep's folder.

    Raises:
        EvaluationError: If a folder contains no results, or they are damaged.
        ArgumentError: If there is no folder, or no run with one of the names.
    """
    if not folders:
        raise ArgumentError("folders", expected="at least one folder of results", got="none")
    sources: list[Source] = []
    left = dict(names or {})
    for given in map(Path, folders):
        for folder in _runs_below(given):
            below = folder.relative_to(given).as_posix()
            ways = [name for name in left if name in (below, str(folder)) or Path(name) == folder]
            ways = ways or [name for name in left if os.path.realpath(name) == os.path.realpath(folder)]
            label = next((left.pop(name) for name in ways), None)
            default = "" if folder == given else below
            sources.append(Source(folder, Results.read(folder), label or default, label is not None))
    if left:
        raise ArgumentError(
            "name",
            expected=f"RUN=LABEL with RUN one of {', '.join(str(source.folder) for source in sources)}",
            got=next(iter(left)),
        )
    return sources


def _runs_below(folder: Path) -> list[Path]:
    """Return the folder if it or no subfolder contains results, else the runs below it, by path."""
    if (folder / RESULTS_JSON).exists() or (folder / RESULTS_JSON).is_symlink():
        return [folder]
    found = [Path(parent) for parent, _, files in os.walk(folder) if RESULTS_JSON in files]
    if len(found) > MAX_RUNS:
        raise EvaluationError(
            f"{printable(folder)} holds {len(found)} runs, more than the {MAX_RUNS} that one report takes; "
            "name those that you mean."
        )
    return sorted(found) or [folder]


def name_systems(sources: Sequence[Source]) -> list[Source]:
    """Rename codecs that have the same name in several runs.

    A codec with equal results in other runs (a sweep's anchor) keeps its name and is kept once. The label
    replaces the name of a run's only other codec, and is appended to the names of several.
    """
    if not any(source.label for source in sources):
        return [replace(source, systems={name: name for name in systems_of(source)}) for source in sources]
    measured: dict[str, list[object]] = {}
    for source in sources:
        for system in systems_of(source):
            measured.setdefault(system, []).append(signature(source, system))
    shared = {
        name for name, all_of in measured.items() if len(all_of) > 1 and all(a == all_of[0] for a in all_of)
    }
    named: list[Source] = []
    taken: set[str] = set()
    for source in sources:
        own = [system for system in systems_of(source) if system not in shared]
        renamed = [s for s in own if source.label and (source.is_named or len(measured[s]) > 1)]
        names = {system: system for system in systems_of(source)}
        titles = {point.system: point.title for point in source.results.points}
        for system in renamed:
            names[system] = source.label if len(own) == 1 else f"{system} ({source.label})"
            titles[system] = source.label if len(own) == 1 else f"{titles[system]} ({source.label})"
        points = [
            replace(point, system=names[point.system], title=titles[point.system])
            for point in source.results.points
            if not (point.system in shared and point.system in taken)
        ]
        taken |= shared & set(names)
        named.append(replace(source, results=replace(source.results, points=points), systems=names))
    return named


def systems_of(source: Source) -> list[str]:
    """Return the names of a run's codecs in order."""
    return list(dict.fromkeys(point.system for point in source.results.points))


def signature(source: Source, system: str) -> object:
    """Return a run's results of a codec in comparable form."""
    own = [point for point in source.results.points if point.system == system]
    return sorted((p.quality, p.labels, p.num_bytes, p.num_pixels, sorted(p.accuracy.items())) for p in own)


def merge(sources: Sequence[Source]) -> Results:
    """Merge evaluations.

    Raises:
        EvaluationError: If they differ in task or dataset, or both measured the same point.
    """
    first = sources[0].results
    points = list(first.points)
    for source in sources[1:]:
        other, pair = source.results, f"{printable(source.folder)} and {printable(sources[0].folder)}"
        if other.task != first.task or other.data != first.data:
            raise EvaluationError(
                f"{pair} were measured with different tasks or images; report them one by one."
            )
        if other.pseudo_score != first.pseudo_score:
            raise EvaluationError(
                f"{pair} were measured with pseudo_score={other.pseudo_score:g} and "
                f"{first.pseudo_score:g}, so against different pseudo-labels; report them one by one."
            )
        there = {(point.system, point.quality, point.labels) for point in points}
        twice = [point for point in other.points if (point.system, point.quality, point.labels) in there]
        if twice:
            raise EvaluationError(
                f"{pair} both hold {twice[0].system} at quality {twice[0].quality:g}. Tell them apart with "
                f"--name {printable(source.folder)}=LABEL (repeatable)."
            )
        points += other.points
    every = [source.results for source in sources]
    notes = list(dict.fromkeys(note for results in every for note in results.notes))
    originals = {kind: found for results in reversed(every) for kind, found in results.originals.items()}
    for kind in originals:
        counts = sorted({point.num_images for point in points if point.labels == kind})
        if len(counts) > 1:
            numbers = " and ".join(map(str, counts))
            notes.append(f"the runs passed different numbers of images with {kind} labels: {numbers}")
    return replace(
        first,
        points=points,
        originals=originals,
        failures=[failure for results in every for failure in results.failures],
        problems=list(dict.fromkeys(problem for results in every for problem in results.problems)),
        notes=notes,
    )
