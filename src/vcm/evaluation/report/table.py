"""The table of Bjøntegaard deltas, with footnotes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vcm.evaluation.curves import Axis, Comparison
from vcm.metrics.bd import BDResult


@dataclass(frozen=True)
class Cell:
    """One delta.

    Attributes:
        text: The number with its unit, or why there is none in a word.
        tone: "good", "bad", or nothing where there is no number.
        mark: Number of the footnote; 0 for none.
    """

    text: str
    tone: str = ""
    mark: int = 0


@dataclass(frozen=True)
class Table:
    """Deltas of every system (rows) on every axis (columns), and the footnotes they refer to, from 1."""

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    notes: list[str]


def bd_table(
    compared: Sequence[tuple[Axis, Mapping[str, Comparison]]],
    titles: Mapping[str, str],
    anchor: str,
    *,
    of_rate: bool,
) -> Table:
    """BD-rates (`of_rate`), or BD-metrics, of every system but the anchor.

    Args:
        compared: For each axis the comparisons by system.
        titles: Of all systems, the anchor among them.
        anchor: The system that the others are compared with.
        of_rate: Whether rates or qualities are told.
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
        is_better = result.value < 0 if of_rate else result.value > 0
        return Cell(_number(result, of_rate=of_rate), "good" if is_better else "bad", mark)

    rows = [
        (title, [cell(axis, by_system.get(system)) for axis, by_system in compared])
        for system, title in titles.items()
        if system != anchor
    ]
    return Table([axis.title for axis, _ in compared], rows, notes)


def _number(result: BDResult, *, of_rate: bool) -> str:
    number = f"{result.value:+.1f}" if of_rate else f"{result.value:+.2f}"
    return number.replace("-", "−") + (" %" if of_rate else "")
