"""`vcm report`: write the HTML report and print BD-rates."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vcm.files import printable

if TYPE_CHECKING:
    from vcm.evaluation.report import Study


def run(arguments: Sequence[str]) -> int:
    """Write the report and print its path on standard output and the BD-rates on standard error."""
    parser = argparse.ArgumentParser(
        prog="vcm report",
        description="Turn results of `vcm evaluate` into one HTML file, and plots as SVG, PNG and PDF.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="results folder (run_dir of vcm evaluate), or a sweep's folder for all runs below it",
    )
    parser.add_argument(
        "--anchor",
        help="reference codec of the BD-rates, by name or title; default: bpg, or the first if there is none",
    )
    parser.add_argument("--accuracy", help="metric to plot, such as map_50; default: the task's main metric")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="RUN=LABEL",
        help="label for the codecs of a run, to tell runs with the same codecs apart; repeatable",
    )
    parser.add_argument(
        "--output", type=Path, help="folder for report.html and plots/; default: the first RUN"
    )
    parser.add_argument(
        "--style",
        choices=("screen", "paper"),
        default="screen",
        help="style of the files in plots/; paper: one column of 3.4 inches, 8 point serif",
    )
    known = parser.parse_args(arguments)
    names = {}
    for given in known.name:
        name, equals, label = given.rpartition("=")
        if not equals or not name or not label.strip():
            parser.error(f"--name must be RUN=LABEL, such as runs/a=wide; got {given!r}")
        names[name] = label.strip()
    from vcm.evaluation.report import read_study, write_report
    from vcm.evaluation.report.findings import findings

    study = read_study(known.folders, anchor=known.anchor, accuracy=known.accuracy, names=names)
    path = write_report(study, known.output, style=known.style)
    print_bd_rates(study)
    print(printable(path.resolve()), flush=True)
    for sentence in findings(study):
        print(printable(sentence), file=sys.stderr)
    return 0


def print_bd_rates(study: Study) -> None:
    """Print the BD-rates of every system against the anchor, with intervals and notes."""
    from rich.console import Console
    from rich.table import Table

    found = study.bd_table(of_rate=True)
    if not found.rows or not found.columns:
        return
    anchor = printable(study.titles[study.anchor])  # untrusted titles could contain control characters
    table = Table(title=f"BD-rate against {anchor}, with 95 % confidence intervals if available")
    for column in ("codec", *found.columns):
        table.add_column(printable(column), justify="left" if column == "codec" else "right")
    for title, cells in found.rows:
        marked = [f"[{cell.mark}] {cell.text}" if cell.mark else cell.text for cell in cells]
        texts = [
            "\n".join(filter(None, (text, cell.interval))) for text, cell in zip(marked, cells, strict=True)
        ]
        table.add_row(printable(title), *texts)
    width = None if sys.stderr.isatty() else 120
    console = Console(stderr=True, width=width, markup=False, highlight=False, soft_wrap=True)
    console.print(table)
    for number, note in enumerate(found.notes, start=1):
        console.print(f"[{number}] {printable(note)}")
    for line in found.undefined:
        console.print(printable(line))
