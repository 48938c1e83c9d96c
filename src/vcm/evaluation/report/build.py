"""Results to report: plots, BD tables, example pictures, one HTML file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from vcm.errors import ArgumentError, EvaluationError
from vcm.evaluation.curves import Axis, Comparison, Curve, accuracy_title, axes_of, compare, curves
from vcm.evaluation.report.examples import View, example_views, matched_rate
from vcm.evaluation.report.plots import as_png, as_svg, draw
from vcm.evaluation.report.table import bd_table
from vcm.evaluation.results import PROVENANCE_JSON, Results, write_text

REPORT_HTML = "report.html"
MAX_LISTED = 50
"""Most lines of each kind that the report lists of what was left out; results.json has them all."""


@dataclass(frozen=True)
class Panel:
    """One axis of the report: its plot, and every curve against the anchor's.

    Attributes:
        axis: What is shown over rate.
        name: Of the plot's files, without suffix.
        svg: The plot.
        comparisons: By system.
    """

    axis: Axis
    name: str
    svg: str
    comparisons: dict[str, Comparison]


def build_report(
    folders: Sequence[str | Path],
    *,
    anchor: str | None = None,
    accuracy: str | None = None,
    output: str | Path | None = None,
) -> Path:
    """Write report.html and plots/*.svg and *.png, and return the HTML file's path.

    Args:
        folders: Folders that `vcm evaluate` wrote; drawn together; they must share task and data.
        anchor: The system that others are compared with; None for "bpg" where it is there, else the first.
        accuracy: Name of the accuracy to draw, such as "map_50"; None for the task's main one.
        output: Where to write; None for the first folder.

    Raises:
        EvaluationError: If a folder holds no results, they do not belong together, or nothing can be written.
        ArgumentError: If there is no such anchor or accuracy.
    """
    if not folders:
        raise ArgumentError("folders", expected="at least one folder of results", got="none")
    sources = [Path(folder) for folder in folders]
    every = [Results.read(source) for source in sources]
    results = merge(every, sources)
    systems = list(dict.fromkeys(point.system for point in results.points))
    if anchor is None:
        anchor = "bpg" if "bpg" in systems else systems[0]
    if anchor not in systems:
        raise ArgumentError("anchor", expected=f"one of {', '.join(systems)}", got=anchor)
    target = Path(output) if output is not None else sources[0]
    try:
        (target / "plots").mkdir(parents=True, exist_ok=True)
        drawn = [(axis, curves(results.points, axis)) for axis in axes_of(results, accuracy)]
        panels = [_panel(results, axis, c, anchor, target / "plots") for axis, c in drawn if c]
        html = _render(
            results,
            panels,
            anchor=anchor,
            accuracy=accuracy,
            examples=example_views(sources, results),
            provenance=_provenance(sources),
        )
        write_text(target / REPORT_HTML, html)
    except OSError as error:
        raise EvaluationError(
            f"{target} cannot be written: {error.strerror or error}. Choose another folder with --output."
        ) from error
    return target / REPORT_HTML


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


def _panel(results: Results, axis: Axis, drawn: Sequence[Curve], anchor: str, plots: Path) -> Panel:
    original = results.originals[axis.labels].get(axis.key) if axis.labels else None
    figure = draw(drawn, axis, None if original is None else 100 * original)
    name = f"rate_{axis.key}" + (f"_{axis.labels}" if axis.labels else "")
    svg = as_svg(figure)
    write_text(plots / f"{name}.svg", svg)
    (plots / f"{name}.png").write_bytes(as_png(figure))
    has_anchor = any(curve.system == anchor for curve in drawn)
    comparisons = {c.system: c for c in compare(drawn, anchor)} if has_anchor else {}
    return Panel(axis, name, svg, comparisons)


def _provenance(sources: Sequence[Path]) -> list[Any]:
    """What stands in the folders' provenance.json, where there is one."""
    found = []
    for source in sources:
        path = source / PROVENANCE_JSON
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise EvaluationError(
                f"{path} is damaged ({error}); run `vcm evaluate` again to write it anew."
            ) from error
    return found


def _render(
    results: Results,
    panels: Sequence[Panel],
    *,
    anchor: str,
    accuracy: str | None,
    examples: Sequence[Sequence[View]],
    provenance: Sequence[Any],
) -> str:
    """The HTML text."""
    environment = Environment(
        loader=PackageLoader("vcm.evaluation.report"),
        autoescape=select_autoescape(["html", "j2"], default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["accuracy_title"] = accuracy_title
    titles = {point.system: point.title for point in results.points}
    compared = [(panel.axis, panel.comparisons) for panel in panels]
    main = list(next(iter(results.originals.values())))[:2]
    failures: dict[tuple[str, str], list[str]] = {}
    for failure in results.failures:
        failures.setdefault((failure.image_id, failure.error), []).append(failure.point)
    return environment.get_template("report.html.j2").render(
        results=results,
        panels=panels,
        anchor=anchor,
        titles=titles,
        bd_rates=bd_table(compared, titles, anchor, of_rate=True),
        bd_metrics=bd_table(compared, titles, anchor, of_rate=False),
        rate=matched_rate(results.points),
        failures=failures,
        max_listed=MAX_LISTED,
        accuracies=list(dict.fromkeys([*main, *([accuracy] if accuracy else [])])),
        examples=examples,
        provenance=provenance,
    )


def _number(value: float | None, digits: int = 2, scale: float = 1) -> str:
    return "–" if value is None else f"{value * scale:.{digits}f}"
