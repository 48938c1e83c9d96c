"""What networks still see after each codec, and at what rate: every curve and BD-rate of the README.

Evaluates JPEG, WebP, AVIF and BPG, each alone and after the preprocessor that comes with vcm, and both widths
of the slimmable codec that comes with it, on the 95 pictures of the COCO sample, which no training saw, from
real bytes. The readers: yolov3-tiny, for which vcm's models were trained; yolov4-tiny and MobileNetV2, which
they never saw. True labels are boxes on 65 of the pictures, pseudo-labels what a network finds on the 95
originals. Prints BD-rates against BPG as a Markdown table, in parentheses with their 95 % intervals over
resamples of the pictures; what the slimmable codec's streams cost beside what BPG takes for as much, the
narrow one by its detector, the full one by MS-SSIM; and all points.

The figures go to benchmarks/results/rate_accuracy.json, the plots to docs/. Interrupted, it goes on where it
stopped.

    vcm fetch yolov3-tiny yolov4-tiny mobilenet-v2 coco-sample
    python benchmarks/rate_accuracy.py [--folder runs/rate_accuracy] [--limit N]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from vcm.evaluation.curves import Axis, axes_of, compare, curves
from vcm.evaluation.report import build_report
from vcm.evaluation.report.plots import as_svg, draw
from vcm.evaluation.results import Results, write_json

ROOT = Path(__file__).resolve().parent.parent
ANCHOR = "bpg"
TASKS = ("yolov3_tiny", "yolov4_tiny", "mobilenet_v2")
TRAINED_FOR = "yolov3_tiny"
# Chosen so that the standard codecs' curves share most of their accuracies and rise: with 65 labels' pictures
# neighbouring qualities can come out in the wrong order, and such a curve has no BD-rate. Those of BPG are
# some of the QPs that the preprocessor was trained with.
QUALITIES = {
    "jpeg": [10, 20, 55, 80],
    "webp": [2, 15, 35, 60, 85],
    "avif": [8, 20, 32, 45, 72],
    "bpg": [44, 40, 34, 28, 25],
}
ANCHOR_BELOW = [50, 47]
"""QPs of BPG alone, for the streams of few bits; no preprocessor was trained there."""
STREAMS = {"features": [1, 2, 3, 4, 5], "learned": [1, 2, 3, 4, 5]}
"""The slimmable codec's curves, its narrow and its full width, and its qualities."""
NAMES = {"features": "slimmable, narrow", "learned": "slimmable, full"}
"""What the tables call them."""
JUDGED_BY = {"features": "mAP@50:95", "learned": "MS-SSIM"}
"""What their streams are held against the anchor's by."""
RATES = {
    "jpeg": [0.5, 1, 6, 16],
    "webp": [0.25, 1, 2, 6, 16],
    "avif": [0.25, 0.5, 1, 4, 16],
}
"""λ of the preprocessor before the codecs that it was not trained with, at each of their qualities."""
DRAWN = (*QUALITIES, "npp_bpg", *STREAMS)
"""The curves of the README's plot."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/rate_accuracy"), help="of records and reports"
    )
    parser.add_argument(
        "--limit", type=int, help="evaluate on the first so many pictures, and keep no results"
    )
    known = parser.parse_args()
    found = {task: evaluate(task, known.folder / task, known.limit) for task in TASKS}
    table, streams = bd_rates(found), stream_rates(found)
    print_table(table)
    print()
    print_streams(streams)
    print_points(found)
    if not known.limit:
        keep(table, streams, found, known.folder)
    return 0


def evaluate(task: str, folder: Path, limit: int | None) -> Results:
    """What `vcm evaluate` finds for a task; records and a report go to `folder`."""
    streams = [name for name in STREAMS if name != "features" or task == TRAINED_FOR]
    codecs = [*QUALITIES, *(f"npp_{codec}" for codec in QUALITIES), *streams]
    command = [sys.executable, "-m", "vcm", "evaluate", f"task={task}", "data=coco_sample"]
    command += [f"codec=[{','.join(codecs)}]", f"name={folder.parent.name}-{task}", f"run_dir={folder}"]
    for codec, values in QUALITIES.items():
        alone = [*ANCHOR_BELOW, *values] if codec == ANCHOR else values
        command += [f"codecs.{codec}.qualities={_listed(alone)}"]
        command += [f"codecs.npp_{codec}.qualities={_listed(values)}"]
    command += [f"codecs.npp_{codec}.rates={_listed(values)}" for codec, values in RATES.items()]
    command += [f"codecs.{name}.qualities={_listed(STREAMS[name])}" for name in streams]
    command += ["task.cut=layer1"] if task == TRAINED_FOR else []
    command += [f"data.test.limit={limit}"] if limit else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"report: {build_report([folder], anchor=ANCHOR)}", file=sys.stderr)
    return Results.read(folder)


def _listed(values: list[Any]) -> str:
    return str(values).replace(" ", "")


def keep(
    table: list[dict[str, Any]], streams: list[dict[str, Any]], found: dict[str, Results], folder: Path
) -> None:
    """Write the figures to benchmarks/results, and a plot of the first task's to docs."""
    first = folder / next(iter(found))
    results = found[first.name]
    axis = next(axis for axis in axes_of(results) if axis.labels == "pseudo")
    drawn = [curve for curve in curves(results.points, axis) if curve.system in DRAWN]
    (ROOT / "docs/rate_accuracy.svg").write_text(as_svg(draw(drawn, axis, None)))
    provenance = json.loads((first / "provenance.json").read_text())
    kept = {key: provenance[key] for key in ("packages", "processor", "num_cores", "started")}
    points = {task: [point.to_json() for point in results.points] for task, results in found.items()}
    figures = {"bd_rate": table, "streams": streams, "points": points, **kept}
    write_json(ROOT / "benchmarks/results/rate_accuracy.json", figures)


def bd_rates(found: dict[str, Results]) -> list[dict[str, Any]]:
    """One row a codec and column: BD-rate against the anchor, at equal accuracy and at equal distortion.

    The anchor's lowest rates are for the streams alone: with them it would share less with the other curves.
    """
    table = []
    for task, results in found.items():
        for axis in axes_of(results):
            if axis.labels is None and task != next(iter(found)):
                continue  # distortions are the same whoever looks
            above = [p for p in results.points if p.system != ANCHOR or p.quality not in ANCHOR_BELOW]
            others = [curve for curve in curves(above, axis) if curve.system not in STREAMS]
            streams = [c for c in curves(results.points, axis) if c.system in (ANCHOR, *STREAMS)]
            compared = [*compare(others, ANCHOR), *compare(streams, ANCHOR)]
            for comparison in compared:
                name = NAMES.get(comparison.system, comparison.title)
                row: dict[str, Any] = {"codec": name, "column": _column(task, axis)}
                row["bd_rate"] = comparison.rate.value
                if comparison.interval is not None:
                    row["interval"] = comparison.interval.ends
                    row["num_undefined"] = comparison.interval.num_undefined
                table.append({**row, "note": comparison.rate.note})
    return table


def stream_rates(found: dict[str, Results]) -> list[dict[str, Any]]:
    """One row a stream of the slimmable codec and quality: its rate beside the anchor's for as much."""
    rows = []
    results = found[TRAINED_FOR]
    for axis in axes_of(results):
        drawn = {curve.system: curve for curve in curves(results.points, axis)}
        asked = [name for name, of in JUDGED_BY.items() if axis.title.startswith(of)]
        for curve in [drawn[name] for name in asked if name in drawn and axis.labels != "truth"]:
            for quality, (bpp, value) in zip(curve.qualities, curve.points, strict=True):
                row = {"stream": curve.system, "quality": quality, "column": _column(TRAINED_FOR, axis)}
                row |= {"bpp": bpp, "value": value, "anchor_bpp": rate_at(drawn[ANCHOR].points, value)}
                rows.append(row)
    return rows


def rate_at(points: list[tuple[float, float]], value: float) -> float | None:
    """The rate at which a curve first reaches a value, log-linear between points; None if it is outside."""
    for (low_rate, low), (high_rate, high) in pairwise(points):
        if low <= value <= high:
            share = (value - low) / (high - low) if high > low else 0.0
            return math.exp((1 - share) * math.log(low_rate) + share * math.log(high_rate))
    return None


def _column(task: str, axis: Axis) -> str:
    seen_by = f"{task.replace('_', '-')}: " if axis.labels else ""
    return seen_by + axis.title.rpartition(" (")[0]


def print_table(table: list[dict[str, Any]]) -> None:
    """The BD-rates as a Markdown table, and what the marks in it mean."""
    columns = list(dict.fromkeys(row["column"] for row in table))
    print("| BD-rate against BPG (%) |", " | ".join(columns), "|")
    print("| --- |", " | ".join(["---:"] * len(columns)), "|")
    notes, undefined = [], []
    for codec in dict.fromkeys(row["codec"] for row in table):
        cells = []
        measured = {row["column"]: row for row in table if row["codec"] == codec}
        for column in columns:
            row = measured.get(column)
            if row is None:  # a stream for another reader
                cells.append("–")
                continue
            cell = "n/a" if row["bd_rate"] is None else f"{row['bd_rate']:+.0f}"
            if row.get("interval"):
                cell += " ({:+.0f} to {:+.0f})".format(*row["interval"])
                if row["num_undefined"]:
                    cell += "†"
                    undefined.append(row["num_undefined"])
            if row["note"]:
                cell += "\\*"
                notes.append(f"{codec}, {row['column']}: {row['note']}")
            cells.append(cell)
        print(f"| {codec} |", " | ".join(cells), "|")
    if undefined:
        print(
            f"\n† On {min(undefined)} to {max(undefined)} of the 200 resamples there is no BD-rate; "
            "they have no part in the interval."
        )
    if notes:
        print("\n\\*", "; ".join(notes) + ".")


def print_streams(rows: list[dict[str, Any]]) -> None:
    """The slimmable codec's streams as a Markdown table: rate, and that of the anchor for as much."""
    print("| stream | at equal | value | bits per pixel | BPG's | difference (%) |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        anchor = row["anchor_bpp"]
        theirs = ("outside", "n/a")
        if anchor is not None:
            theirs = (f"{anchor:.3f}", f"{100 * (row['bpp'] / anchor - 1):+.0f}")
        print(
            f"| {NAMES[row['stream']]}, {row['quality']:g} | {row['column']} | {row['value']:.1f} "
            f"| {row['bpp']:.3f} | {theirs[0]} | {theirs[1]} |"
        )


def print_points(found: dict[str, Results]) -> None:
    """Every point's rate and figures."""
    for task, results in found.items():
        print(f"\n{task}")
        for point in results.points:
            figures = [f"{name} {value:.3f}" for name, value in point.accuracy.items() if value is not None]
            if point.psnr is not None:
                figures.append(f"PSNR {point.psnr:.2f} dB, MS-SSIM {point.ms_ssim:.4f}")
            name = f"{point.title} {point.quality:g}, {point.labels}"
            print(f"  {name}: {point.bpp:.4f} bpp, {', '.join(figures)}")


if __name__ == "__main__":
    sys.exit(main())
