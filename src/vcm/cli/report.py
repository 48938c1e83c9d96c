"""`vcm report`: results into one HTML file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def run(arguments: Sequence[str]) -> int:
    """Write the report and say where it is."""
    parser = argparse.ArgumentParser(
        prog="vcm report",
        description="Turn what `vcm evaluate` measured into one HTML file, and plots as SVG and PNG.",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="RUN", help="folder of results (run_dir of vcm evaluate)"
    )
    parser.add_argument(
        "--anchor", help="codec that the others are compared with; bpg, or else the first, by default"
    )
    parser.add_argument("--accuracy", help="accuracy to draw, such as map_50; the task's main one by default")
    parser.add_argument(
        "--output", type=Path, help="folder for report.html and plots/; the first RUN by default"
    )
    known = parser.parse_args(arguments)
    from vcm.evaluation.report import build_report

    path = build_report(known.folders, anchor=known.anchor, accuracy=known.accuracy, output=known.output)
    print(path.resolve())
    return 0
