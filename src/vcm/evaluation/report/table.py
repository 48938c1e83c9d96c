"""Table of Bjøntegaard deltas with footnotes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vcm.evaluation.curves import Axis, Comparison
from vcm.metrics.bd import BDInterval


@dataclass(frozen=True)
class Cell:
    """One delta.

    Attributes:
        text: Value with its unit, or a word that says why there is none.
        tone: "good" or "bad"; empty without a value, or if the interval contains 0.
        mark: Footnote number; 0 for none.
        interval: 95 % interval, or a note that too few resamples have a value; empty without resamples.
    """

    text: str
    tone: str = ""
    mark: int = 0
    interval: str = ""


@dataclass(frozen=True)
class Table:
    """Deltas of every codec (rows) on every axis (columns).

    Attributes:
        columns: Titles of the axes.
        rows: Titles of the codecs, each with one cell per column.
        notes: Footnotes, numbered from 1.
        num_resamples: Number of resamples of the intervals; 0 for none.
        undefined: One line per axis with resamples that have no BD-rate.
        saved: Bits saved on the main axis, one text per row; empty for BD-metrics.
        main: Index of the main axis' column.
    """

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str]
    num_resamples: int
    undefined: list[str]
    saved: list[str] = field(default_factory=list)
    main: int = 0


def bd_table(
    compared: Sequence[tuple[Axis, Mapping[str, Comparison]]],
    titles: Mapping[str, str],
    anchor: str,
    *,
    of_rate: bool,
    main: int = 0,
) -> Table:
    """Build the table of BD-rates (`of_rate`) or BD-metrics, without the anchor.

    Args:
        compared: Comparisons by codec, for each axis.
        titles: Titles of all codecs, including the anchor.
        anchor: Name of the codec that others are compared with.
        of_rate: Whether to show BD-rates instead of BD-metrics.
        main: Index of the axis of the bits saved.
    """
    notes: list[str] = []

    def cell(axis: Axis, found: Comparison | None) -> Cell:
        if found is None:
            return Cell("–")
        result = found.rate if of_rate else found.metric
        mark = 0
        if result.note:
            curves = {"anchor curve": titles[anchor], "test curve": found.title}
            note = result.note
            for words, title in curves.items():
                note = note.replace(words, f"the curve of {title}")
            note = f"{axis.title}: {note}"
            if note not in notes:
                notes.append(note)
            mark = notes.index(note) + 1
        if result.value is None:
            return Cell("n/a", "", mark)
        tone = "good" if (result.value < 0) == of_rate else "bad"
        interval = _interval(found.interval) if of_rate and found.interval is not None else ""
        is_sure = not interval or (found.interval is not None and found.interval.excludes_zero)
        return Cell(_number(result.value, of_rate=of_rate), tone if is_sure else "", mark, interval)

    rows = [
        (title, [cell(axis, by_system.get(system)) for axis, by_system in compared])
        for system, title in titles.items()
        if system != anchor
    ]
    num_resamples, undefined = _resamples(compared) if of_rate else (0, [])
    saved = [_saved(compared[main][1].get(system)) for system in titles if system != anchor]
    titles_of_axes = [axis.title for axis, _ in compared]
    return Table(titles_of_axes, rows, notes, num_resamples, undefined, saved if of_rate else [], main)


def _saved(found: Comparison | None) -> str:
    """Format a BD-rate as the share of bits saved, which is negative for a codec that needs more."""
    if found is None or found.rate.value is None:
        return "–"
    return f"{-found.rate.value:.0f} %".replace("-", "−")


def _resamples(compared: Sequence[tuple[Axis, Mapping[str, Comparison]]]) -> tuple[int, list[str]]:
    """Return the number of resamples, and a line per axis about those without a BD-rate."""
    most, lines = 0, []
    for axis, by_system in compared:
        found = [(c.title, c.interval) for c in by_system.values() if c.interval is not None]
        most = max([most, *(interval.num_resamples for _, interval in found)])
        shares = [
            f"{interval.num_undefined} of {interval.num_resamples} for {title}"
            for title, interval in found
            if interval.num_undefined
        ]
        if shares:
            lines.append(f"{axis.title}: resamples without a BD-rate: {', '.join(shares)}")
    return most, lines


def _interval(interval: BDInterval) -> str:
    if interval.ends is None:
        return "no interval"
    return "{:+.1f} to {:+.1f}".format(*interval.ends).replace("-", "−")


def _number(value: float, *, of_rate: bool) -> str:
    number = f"{value:+.1f}" if of_rate else f"{value:+.2f}"
    return number.replace("-", "−") + (" %" if of_rate else "")
