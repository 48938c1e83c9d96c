"""Write the report of a study: plots, BD tables, example images, one HTML file."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from vcm.errors import EvaluationError
from vcm.evaluation.curves import Axis, Curve, accuracy_title
from vcm.evaluation.folders import make_folder, read_json_inside
from vcm.evaluation.report.examples import example_views
from vcm.evaluation.report.findings import findings
from vcm.evaluation.report.plots import Style, as_pdf, as_png, as_svg, draw, legend_keys, with_tooltips
from vcm.evaluation.report.study import Study, read_study
from vcm.evaluation.results import PROVENANCE_JSON, Results, damaged, write_text
from vcm.files import file_name, write_bytes

REPORT_HTML = "report.html"
MAX_LISTED = 50
"""Most lines of each kind that the report lists of what was left out; results.json has them all."""


@dataclass(frozen=True)
class Panel:
    """Plot of one axis.

    Attributes:
        axis: Vertical axis.
        name: Name of the plot's files, without suffix.
        svg: The plot.
    """

    axis: Axis
    name: str
    svg: str


def build_report(
    folders: Sequence[str | Path],
    *,
    anchor: str | None = None,
    accuracy: str | None = None,
    names: Mapping[str, str] | None = None,
    output: str | Path | None = None,
) -> Path:
    """Read evaluations and write their report; see `read_study` and `write_report`."""
    return write_report(read_study(folders, anchor=anchor, accuracy=accuracy, names=names), output)


def write_report(study: Study, output: str | Path | None = None, *, style: Style = "screen") -> Path:
    """Write report.html and plots/*.svg, *.png and *.pdf, and return the HTML file's path.

    Args:
        study: The content.
        output: Folder of the report; None for the study's home.
        style: Style of the files in plots/: "screen", or "paper" for a column of 3.4 inches.

    Raises:
        EvaluationError: If nothing can be written, or plots/ is a link that leads out of the folder.
    """
    target = Path(output) if output is not None else study.home
    try:
        target.mkdir(parents=True, exist_ok=True)
        plots = make_folder(target, "plots")
        panels = [_panel(study.results, axis, drawn, plots, style) for axis, drawn in study.curves]
        write_text(target / REPORT_HTML, _render(study, panels))
    except OSError as error:
        where = target / "plots" if error.errno == errno.EPERM else target
        raise EvaluationError(
            f"{where} cannot be written: {error.strerror or error}. Choose another folder with --output."
        ) from error
    return target / REPORT_HTML


def _panel(results: Results, axis: Axis, drawn: Sequence[Curve], plots: Path, style: Style) -> Panel:
    original = results.originals[axis.labels].get(axis.key) if axis.labels else None
    original = None if original is None else 100 * original
    systems = list(dict.fromkeys(point.system for point in results.points))
    inline = draw(drawn, axis, original, systems=systems, legend=False)
    name = file_name(f"rate_{axis.key}" + (f"_{axis.labels}" if axis.labels else ""))
    svg = with_tooltips(as_svg(inline), drawn, axis)
    kept = draw(drawn, axis, original, systems=systems, style=style)
    write_text(plots / f"{name}.svg", as_svg(kept, style))
    write_bytes(plots / f"{name}.png", as_png(kept, style))
    write_bytes(plots / f"{name}.pdf", as_pdf(kept, style))
    return Panel(axis, name, svg)


def _provenance(sources: Sequence[Path]) -> list[dict[str, Any]]:
    """Read provenance.json of the runs that have one."""
    found = []
    for source in sources:
        try:
            content = read_json_inside(source, PROVENANCE_JSON)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise damaged(source / PROVENANCE_JSON, error) from error
        if not isinstance(content, dict):
            raise damaged(source / PROVENANCE_JSON, ValueError("it is no object"))
        found.append(content)
    return found


def _render(study: Study, panels: Sequence[Panel]) -> str:
    """Render the HTML file."""
    environment = Environment(
        loader=PackageLoader("vcm.evaluation.report"),
        autoescape=select_autoescape(["html", "j2"], default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["accuracy_title"] = accuracy_title
    results = study.results
    main = list(next(iter(results.originals.values())))[:2]
    failures: dict[tuple[str, str], list[str]] = {}
    for failure in results.failures:
        failures.setdefault((failure.image_id, failure.error), []).append(failure.point)
    examples, notes = example_views(study.sources, results)
    return environment.get_template("report.html.j2").render(
        results=results,
        notes=[*results.notes, *notes],
        panels=panels,
        anchor=study.anchor,
        titles=study.titles,
        keys=legend_keys(list(study.titles)),
        findings=findings(study),
        bd_rates=study.bd_table(of_rate=True),
        bd_metrics=study.bd_table(of_rate=False),
        failures=failures,
        max_listed=MAX_LISTED,
        accuracies=list(dict.fromkeys([*main, *([study.accuracy] if study.accuracy else [])])),
        examples=examples,
        provenance=_provenance(study.folders),
    )


def _number(value: float | None, digits: int = 2, scale: float = 1) -> str:
    return "–" if value is None else f"{value * scale:.{digits}f}"
