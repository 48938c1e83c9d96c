"""What real detectors still see after JPEG, WebP, AVIF and BPG: the README's table and plot.

Evaluates yolov3-tiny and yolov4-tiny on the 95 pictures of the COCO sample, from real bytes, against true
labels (65 pictures) and pseudo-labels (95), and prints each codec's BD-rate against BPG as a Markdown table,
in parentheses with its 95 % interval over resamples of the pictures, where it has one.
The figures go to benchmarks/results/standard_codecs.json, the plot to docs/standard_codecs.svg. Interrupted,
it goes on where it stopped.

    vcm fetch yolov3-tiny yolov4-tiny coco-sample
    python benchmarks/standard_codecs.py [--folder runs/standard_codecs] [--limit N]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vcm.evaluation.curves import axes_of, compare, curves
from vcm.evaluation.report import build_report
from vcm.evaluation.results import Results, write_json

ROOT = Path(__file__).resolve().parent.parent
ANCHOR = "bpg"
# Chosen so that the curves share most of their accuracies and rise: with 65 labelled pictures, neighbouring
# qualities can come out in the wrong order, and such a curve has no BD-rate.
QUALITIES = {
    "jpeg": [10, 20, 55, 80],
    "webp": [2, 15, 35, 60, 85],
    "avif": [8, 20, 32, 45, 72],
    "bpg": [45, 39, 33, 27],
}
TASKS = ("yolov3_tiny", "yolov4_tiny")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/standard_codecs"), help="of records and reports"
    )
    parser.add_argument(
        "--limit", type=int, help="evaluate on the first so many pictures, and keep no results"
    )
    known = parser.parse_args()
    found = evaluate(TASKS, QUALITIES, known.folder, limit=known.limit)
    table = rows(found)
    print_table(table)
    if not known.limit:
        keep("standard_codecs", table, found, known.folder)
    return 0


def evaluate(
    tasks: Sequence[str],
    qualities: Mapping[str, Sequence[float]],
    folder: Path,
    *,
    limit: int | None,
    settings: Sequence[str] = (),
) -> dict[str, Results]:
    """What `vcm evaluate` finds for every task on the COCO sample; records and reports go below `folder`."""
    found = {}
    for task in tasks:
        below = folder / task
        command = [sys.executable, "-m", "vcm", "evaluate", f"task={task}", "data=coco_sample", *settings]
        command += [f"codec=[{','.join(qualities)}]", f"name={folder.name}-{task}", f"run_dir={below}"]
        command += [
            f"codecs.{codec}.qualities={list(values)}".replace(" ", "") for codec, values in qualities.items()
        ]
        command += [f"data.test.limit={limit}"] if limit else []
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"report: {build_report([below], anchor=ANCHOR)}", file=sys.stderr)
        found[task] = Results.read(below)
    return found


def keep(name: str, table: list[dict[str, Any]], found: dict[str, Results], folder: Path) -> None:
    """Write the figures to benchmarks/results, and the first task's plot to docs."""
    first = folder / next(iter(found))
    for below in ("docs", "benchmarks/results"):
        (ROOT / below).mkdir(exist_ok=True)
    (ROOT / f"docs/{name}.svg").write_text((first / "plots/rate_map_pseudo.svg").read_text())
    provenance = json.loads((first / "provenance.json").read_text())
    kept = {key: provenance[key] for key in ("packages", "processor", "num_cores", "started")}
    points = {task: [point.to_json() for point in results.points] for task, results in found.items()}
    write_json(ROOT / f"benchmarks/results/{name}.json", {"bd_rate": table, "points": points, **kept})


def rows(found: dict[str, Results]) -> list[dict[str, Any]]:
    """One row a codec and column: BD-rate against the anchor, at equal accuracy and at equal distortion."""
    table = []
    for task, results in found.items():
        for axis in axes_of(results):
            if axis.labels is None and task != list(found)[-1]:
                continue  # distortions are the same whoever looks
            seen_by = f"{task.replace('_', '-')}: " if axis.labels else ""
            column = seen_by + axis.title.rpartition(" (")[0]
            for comparison in compare(curves(results.points, axis), ANCHOR):
                row: dict[str, Any] = {"codec": comparison.title, "column": column}
                row["bd_rate"] = comparison.rate.value
                if comparison.interval is not None:
                    row["interval"] = comparison.interval.ends
                    row["num_undefined"] = comparison.interval.num_undefined
                table.append({**row, "note": comparison.rate.note})
    return table


def print_table(table: list[dict[str, Any]]) -> None:
    """The rows as a Markdown table, and what the stars in it mean."""
    columns = list(dict.fromkeys(row["column"] for row in table))
    print("| BD-rate against BPG (%) |", " | ".join(columns), "|")
    print("| --- |", " | ".join(["---:"] * len(columns)), "|")
    notes = []
    for codec in dict.fromkeys(row["codec"] for row in table):
        cells = []
        for row in (row for row in table if row["codec"] == codec):
            number = "n/a" if row["bd_rate"] is None else f"{row['bd_rate']:+.0f}"
            if row.get("interval"):
                number += " ({:+.0f} to {:+.0f})".format(*row["interval"])
            reasons = [row["note"]] if row["note"] else []
            if row.get("interval") and row["num_undefined"]:
                reasons.append(
                    f"{row['num_undefined']} resamples have no BD-rate, and no part in the interval"
                )
            cells.append(number + ("\\*" if reasons else ""))
            notes += [f"{codec}, {row['column']}: {reason}" for reason in reasons]
        print(f"| {codec} |", " | ".join(cells), "|")
    if notes:
        print("\n\\*", "; ".join(notes) + ".")


if __name__ == "__main__":
    sys.exit(main())
