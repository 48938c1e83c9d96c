"""What networks still see after each codec, and at what rate: every curve and BD-rate of the README.

Evaluates on the 95 images of the COCO sample, which no training saw and by which no setting was chosen, from
real bytes over the original images' pixels: BPG, JPEG, WebP and AVIF; BPG and AVIF at the reader's size; BPG
and AVIF after the preprocessor that comes with vcm; BPG with QPs from importance, computed with a detector or
predicted by a network, and with pixels refined for the reader; and both widths of the slimmable codec that
comes with vcm. Readers are yolov3-tiny, for which vcm's models were trained and from which importance and
searches are; yolov4-tiny, which was never consulted; and MobileNetV2 (for it, importance is its own, unless a
network predicts it). Ground truth is boxes on 65 of the images, pseudo-labels are what a network finds on the
95 originals at a score of 0.3.

The protocol, fixed before anything was measured: QP 50 to 25 in steps of 5 for every BPG curve, quality 5 to
80 in steps of 15 for every JPEG, WebP and AVIF curve, all qualities of the slimmable model, x265's preset
veryslow. BD-rates are by PCHIP on log rate between the curves' upper envelopes, with the anchor cut to the
other curve's range and one point beyond it, and are given above 50 % of overlap. Prints BD-rates against BPG
and against BPG at the reader's size, with 95 % intervals over 200 resamples of the images and the encoder's
seconds an image; the slimmable codec's streams beside the anchors; BD-rates by the pseudo-labels' threshold;
and all points.

The figures go to benchmarks/results/rate_accuracy.json, the plot to docs/. Interrupted, it goes on where it
stopped. With --tasks or --systems only these readers or systems (and the anchors) are evaluated, and the
others' figures are those already in the file, as are all encoder's seconds with --systems, which are only
comparable within one run.

    vcm fetch yolov3-tiny yolov4-tiny mobilenet-v2 coco-sample
    python benchmarks/rate_accuracy.py [--folder runs/rate_accuracy] [--tasks yolov4_tiny …]
                                       [--systems features learned …] [--limit N]
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import subprocess
import sys
from collections.abc import Set
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from vcm.evaluation.curves import Axis, axes_of, compare, curves
from vcm.evaluation.points import Point
from vcm.evaluation.report import build_report
from vcm.evaluation.report.plots import as_svg, draw
from vcm.evaluation.results import Results, write_json
from vcm.metrics.bd import CAUTION_OVERLAP, upper_envelope

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/rate_accuracy.json"
PLOT = ROOT / "docs/rate_accuracy.svg"
ANCHORS = ("bpg", "bpg_at_reader")
TASKS = ("yolov3_tiny", "yolov4_tiny", "mobilenet_v2")
CLASSIFIER = "mobilenet_v2"
TRAINED_FOR = "yolov3_tiny"
"""The detector that vcm's models were trained for, and that importance and searches look at."""
QPS = [50, 45, 40, 35, 30, 25]
"""Of every BPG curve, whatever comes before BPG."""
QUALITIES = [5, 20, 35, 50, 65, 80]
"""Of JPEG, WebP and AVIF."""
RATES = [0.25, 0.5, 1, 2, 6, 16]
"""λ of the preprocessor before AVIF, for which it was not trained."""
STANDARD = ("jpeg", "webp", "avif")
PLAIN = ("bpg", "bpg_at_reader", *STANDARD, "avif_at_reader")
FILTERED = ("npp_bpg", "npp_bpg_at_reader", "npp_avif")
IMPORTANCE = ("bpg_importance_at_reader", "npp_bpg_importance_at_reader")
PREDICTED = ("bpg_importance_network_at_reader",)
"""With importance that a network predicts from the image, so that no detector runs in the encoder."""
SEARCHED = ("bpg_importance_at_reader_effort10",)
STREAMS = ("features", "features_effort10")
"""The slimmable codec's narrow width."""
FULL = "learned"
"""Its full width."""
SYSTEMS = (
    *("bpg", "bpg_at_reader", "npp_bpg", "npp_bpg_at_reader", *PREDICTED, *IMPORTANCE, *SEARCHED),
    *(*STANDARD, "avif_at_reader", "npp_avif", *STREAMS, FULL),
)
"""All systems, in the order of the tables."""
STREAM_QUALITIES = [1, 2, 3, 4, 5]
SCORES = (0.1, 0.3, 0.5, 0.7)
"""Thresholds of pseudo-labels; 0.3 in all other tables."""
NUM_RESAMPLES = 200
BOX_BITS = 48
"""A class, a score, and four coordinates of 9 to 10 bits."""
ANCHOR_NAMES = {"bpg": "BPG", "bpg_at_reader": "BPG at the reader's size"}
NAMES = {
    "features": "slimmable, narrow",
    "features_effort10": "slimmable, narrow, effort 10",
    "learned": "slimmable, full",
}
"""What the tables call them."""
DRAWN = (
    *("bpg", "bpg_at_reader", "avif", "npp_bpg", "bpg_importance_at_reader"),
    *(*SEARCHED, "features", "features_effort10"),
)
"""The curves of the README's plot."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/rate_accuracy"), help="of records and reports"
    )
    parser.add_argument("--limit", type=int, help="evaluate on the first so many images, and keep no results")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, help="readers to evaluate")
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=SYSTEMS,
        default=SYSTEMS,
        help="systems to evaluate beside the anchors",
    )
    known = parser.parse_args()
    tasks = [task for task in TASKS if task in known.tasks]
    systems = {*known.systems, *ANCHORS}
    sensitive = sensitivity(tasks, systems, known.folder, known.limit)
    found = {task: evaluate(task, systems, known.folder / task, known.limit) for task in tasks}
    figures: dict[str, Any] = {
        "bd_rate": bd_rates(found),
        "sensitivity": sensitive,
        "points": {task: [point.to_json() for point in results.points] for task, results in found.items()},
        "originals": {task: results.originals for task, results in found.items()},
        "measured": {task: measured(known.folder / task, results) for task, results in found.items()},
    }
    if TRAINED_FOR in found:
        figures["streams"] = stream_rates(found[TRAINED_FOR])
        if systems == set(SYSTEMS):
            figures["seconds"] = encoder_seconds(known.folder / TRAINED_FOR)
        figures["boxes"] = boxes(known.folder / TRAINED_FOR)
    if not known.limit:
        figures = merged(json.loads(RESULTS.read_text()) if RESULTS.exists() else {}, figures)
        write_json(RESULTS, figures)
        if TRAINED_FOR in found:
            PLOT.write_text(plot(found[TRAINED_FOR], figures["points"][TRAINED_FOR]))
    print_tables(figures["bd_rate"], figures.get("seconds", {}))
    print_streams(figures.get("streams", []))
    if "boxes" in figures:
        print_boxes(figures["boxes"])
    print_sensitivity(figures["sensitivity"])
    print_points(found)
    return 0


def merged(earlier: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """New figures, and the earlier ones of tasks and systems that were not evaluated."""
    figures = {**earlier, **new}
    check_anchors(earlier, new)
    again = {(task, point["system"]) for task, points in new["points"].items() for point in points}
    for key in ("bd_rate", "sensitivity"):
        kept = [row for row in earlier.get(key, []) if (row["task"], row["system"]) not in again]
        figures[key] = sorted(
            kept + new[key], key=lambda row: (TASKS.index(row["task"]), SYSTEMS.index(row["system"]))
        )
    for key in ("originals", "measured"):
        found = {
            task: {**earlier.get(key, {}).get(task, {}), **new[key].get(task, {})}
            for task in TASKS
            if task in earlier.get(key, {}) or task in new[key]
        }
        figures[key] = found
    figures["points"] = {}
    for task in figures["originals"]:
        kept = [p for p in earlier.get("points", {}).get(task, []) if (task, p["system"]) not in again]
        points = kept + new["points"].get(task, [])
        figures["points"][task] = sorted(points, key=lambda point: SYSTEMS.index(point["system"]))
    streams = [row for row in earlier.get("streams", []) if (TRAINED_FOR, row["stream"]) not in again]
    order = (*STREAMS, FULL)
    columns = list(
        dict.fromkeys(row["column"] for row in [*earlier.get("streams", []), *new.get("streams", [])])
    )
    figures["streams"] = sorted(
        streams + new.get("streams", []),
        key=lambda row: (columns.index(row["column"]), order.index(row["stream"]), row["quality"]),
    )
    return figures


def check_anchors(earlier: dict[str, Any], new: dict[str, Any]) -> None:
    """Stop if the anchors, on which kept figures of other systems depend, differ from before."""
    for task, points in new["points"].items():
        known = {_key(point): point for point in earlier.get("points", {}).get(task, [])}
        if {key[0] for key in known} <= {point["system"] for point in points}:
            continue
        for point in points:
            before = known.get(_key(point))
            if point["system"] not in ANCHORS or before is None:
                continue
            same = math.isclose(point["bpp"], before["bpp"], rel_tol=1e-3) and all(
                math.isclose(value or 0, before["accuracy"][name] or 0, abs_tol=2e-3)
                for name, value in point["accuracy"].items()
            )
            if not same:
                sys.exit(f"{task}: {_key(point)} differs from the stored figures. Measure all systems again.")


def _key(point: dict[str, Any]) -> tuple[str, float, str]:
    return point["system"], point["quality"], point["labels"]


def evaluate(
    task: str,
    systems: Set[str],
    folder: Path,
    limit: int | None,
    *,
    pseudo_score: float = 0.3,
    bootstrap: int = NUM_RESAMPLES,
) -> Results:
    """What `vcm evaluate` finds for a task; records and reports go to `folder`."""
    detects = task != CLASSIFIER
    possible = [*PLAIN, *(FILTERED if detects else FILTERED[:1]), *PREDICTED, *IMPORTANCE]
    possible += SEARCHED if detects else ()
    possible += [*(STREAMS if task == TRAINED_FOR else ()), FULL]
    named = [name for name in possible if name in systems]
    streams = [name for name in named if name in (*STREAMS, FULL)]
    bpg = [name for name in named if "bpg" in name]
    others = [name for name in named if name not in (*bpg, *streams)]
    command = [sys.executable, "-m", "vcm", "evaluate", f"task={task}", "data=coco_sample"]
    command += [f"codec=[{','.join([*bpg, *others, *streams])}]"]
    command += [f"name={folder.parent.name}-{task}", f"run_dir={folder}"]
    command += [f"pseudo_score={pseudo_score}", f"bootstrap={bootstrap}"]
    command += [f"codecs.{name}.qualities={_listed(QPS)}" for name in bpg]
    command += [f"codecs.{name}.qualities={_listed(QUALITIES)}" for name in others]
    command += [f"codecs.{name}.qualities={_listed(STREAM_QUALITIES)}" for name in streams]
    command += [f"codecs.{name}.lmbda={_listed(RATES)}" for name in others if name.startswith("npp_")]
    searched = [name for name in named if name in SEARCHED]
    command += [f"codecs.{name}.search.cache={folder.parent / 'searches'}" for name in searched]
    if task == TRAINED_FOR:
        command += ["task.cut=layer1"]
    elif detects:  # the very streams that were made for the other detector
        looked_at = f"task@codecs.{{}}.task={TRAINED_FOR}"
        seen = [name for name in named if name in (*IMPORTANCE, *SEARCHED)]
        command += [f"+{looked_at.format(f'{name}.importance')}" for name in seen]
        command += [f"+{looked_at.format(f'{name}.search')}" for name in searched]
    command += [f"data.test.limit={limit}"] if limit else []
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if bootstrap:
        for anchor in ANCHORS:
            output = folder.parent / f"{folder.name}-{anchor}"
            print(f"report: {build_report([folder], anchor=anchor, output=output)}", file=sys.stderr)
    return Results.read(folder)


def _listed(values: list[Any]) -> str:
    return str(values).replace(" ", "")


def plot(results: Results, points: list[dict[str, Any]]) -> str:
    """The README's plot of all points, as SVG."""
    axis = next(axis for axis in axes_of(results) if axis.labels == "pseudo")
    titled = [{**point, "title": NAMES.get(point["system"], point["title"])} for point in points]
    drawn = [Point.from_json(point) for point in titled if point["system"] in DRAWN]
    svg: str = as_svg(draw(curves(drawn, axis), axis, None))
    return svg


def measured(folder: Path, results: Results) -> dict[str, dict[str, Any]]:
    """With what versions, on what processor, and when each system was evaluated."""
    provenance = json.loads((folder / "provenance.json").read_text())
    run = {key: provenance[key] for key in ("packages", "processor", "num_cores", "started")}
    return {point.system: run for point in results.points}


def encoder_seconds(folder: Path) -> dict[str, float]:
    """Mean seconds from image to bytes by system, over qualities."""
    with (folder / "timings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    systems = dict.fromkeys(row["system"] for row in rows)
    return {name: fmean(float(r["encode_s"]) for r in rows if r["system"] == name) for name in systems}


def boxes(folder: Path) -> dict[str, float]:
    """What it would cost to send the detector's boxes on the originals, at `BOX_BITS` a box."""
    (path,) = (p for p in (folder / "records").glob("originals-*.jsonl") if "timings" not in p.name)
    records = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    counts = [sum(score >= 0.3 for score in record["prediction"]["scores"]) for record in records]
    num_pixels = sum(record["height"] * record["width"] for record in records)
    return {"per_image": fmean(counts), "bpp": BOX_BITS * sum(counts) / num_pixels}


def bd_rates(found: dict[str, Results]) -> list[dict[str, Any]]:
    """One row an anchor, system and column: BD-rate at equal accuracy and at equal distortion."""
    table = []
    for task, results in found.items():
        for axis in axes_of(results):
            if axis.labels is None and task != TRAINED_FOR:
                continue  # distortions do not depend on the reader
            for anchor in ANCHORS:
                for comparison in compare(curves(results.points, axis), anchor, by_envelope=True):
                    row: dict[str, Any] = {"task": task, "anchor": anchor, "system": comparison.system}
                    row["title"] = NAMES.get(comparison.system, comparison.title)
                    row |= {"column": _column(task, axis), "bd_rate": comparison.rate.value}
                    row["overlap"] = comparison.rate.overlap
                    if comparison.interval is not None:
                        row["interval"] = comparison.interval.ends
                        row["num_undefined"] = comparison.interval.num_undefined
                    table.append(row)
    return table


def sensitivity(tasks: list[str], systems: Set[str], folder: Path, limit: int | None) -> list[dict[str, Any]]:
    """BD-rates against BPG by pseudo-labels at other thresholds; records are shared with the main run."""
    rows = []
    for task in [task for task in tasks if task != CLASSIFIER]:
        for score in SCORES:
            results = evaluate(task, systems, folder / task, limit, pseudo_score=score, bootstrap=0)
            axis = next(axis for axis in axes_of(results) if axis.labels == "pseudo")
            for comparison in compare(curves(results.points, axis), ANCHORS[0], by_envelope=True):
                title = NAMES.get(comparison.system, comparison.title)
                row = {"task": task, "system": comparison.system, "title": title, "score": score}
                rows.append({**row, "bd_rate": comparison.rate.value})
    return rows


def stream_rates(results: Results) -> list[dict[str, Any]]:
    """One row a stream of the slimmable codec: its rate beside the anchors' for as much."""
    rows = []
    for axis in axes_of(results):
        drawn = {curve.system: curve for curve in curves(results.points, axis)}
        judged = [FULL] if axis.key == "ms_ssim_db" else STREAMS if axis.labels else []
        for curve in [drawn[name] for name in judged if name in drawn]:
            for quality, (bpp, value) in zip(curve.qualities, curve.points, strict=True):
                row = {"stream": curve.system, "quality": quality, "column": _column(TRAINED_FOR, axis)}
                row |= {"bpp": bpp, "value": value}
                if axis.labels:
                    row["originals"] = 100 * (results.originals[axis.labels][axis.key] or 0)
                for anchor in ANCHORS:
                    row[anchor] = rate_of(upper_envelope(drawn[anchor].points), value)
                rows.append(row)
    return rows


def rate_of(points: list[tuple[float, float]], value: float) -> float | None:
    """The rate at which a rising curve reaches a value, log-linear between points; None if it is outside."""
    for (low_rate, low), (high_rate, high) in pairwise(points):
        if low <= value <= high:
            share = (value - low) / (high - low)
            return math.exp((1 - share) * math.log(low_rate) + share * math.log(high_rate))
    return None


def _column(task: str, axis: Axis) -> str:
    if not axis.labels:
        return axis.title.rpartition(" (")[0]
    kind = "ground truth" if axis.labels == "truth" else "pseudo-labels"
    return f"{task.replace('_', '-')}, {kind}"


def print_tables(table: list[dict[str, Any]], seconds: dict[str, float]) -> None:
    """The BD-rates as two Markdown tables, one an anchor, and what the marks in them mean."""
    columns = list(dict.fromkeys(row["column"] for row in table))
    for anchor in ANCHORS:
        rows = [row for row in table if row["anchor"] == anchor]
        print(f"| BD-rate against {ANCHOR_NAMES[anchor]} (%) |", " | ".join(columns), "| encoder, s |")
        print("| --- |", " | ".join(["---:"] * (len(columns) + 1)), "|")
        for system in dict.fromkeys(row["system"] for row in rows):
            mine = {row["column"]: row for row in rows if row["system"] == system}
            cells = [_cell(mine.get(column)) for column in columns]
            title = next(iter(mine.values()))["title"]
            time = f"{seconds[system]:.2f}" if system in seconds else "–"
            print(f"| {title} |", " | ".join(cells), f"| {time} |")
        print()
    print(
        "In parentheses 95 % intervals over resamples of the images. n/a: the curves overlap by less than "
        "50 %. \\*: by less than 75 %, or fewer than 90 % of the resamples have a BD-rate."
    )
    print()


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:  # a stream for another reader
        return "–"
    if row["bd_rate"] is None:
        return "n/a"
    cell = f"{row['bd_rate']:+.0f}"
    if row.get("interval"):
        cell += " ({:+.0f} to {:+.0f})".format(*row["interval"])
    is_doubtful = row["overlap"] < CAUTION_OVERLAP or row.get("num_undefined", 0) > NUM_RESAMPLES / 10
    return cell + "\\*" * is_doubtful


def print_streams(rows: list[dict[str, Any]]) -> None:
    """The slimmable codec's streams as a Markdown table: rate, and those of the anchors for as much."""
    print("| stream | at equal | value | of the originals' | bpp | BPG's | BPG's at the reader's size |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        cells = [f"{NAMES[row['stream']]}, {row['quality']:g}", row["column"], f"{row['value']:.1f}"]
        cells += [f"{100 * row['value'] / row['originals']:.0f} %" if "originals" in row else "–"]
        cells += [f"{row['bpp']:.3f}"]
        for anchor in ANCHORS:
            theirs = row[anchor]
            difference = "" if theirs is None else f"{100 * (row['bpp'] / theirs - 1):+.0f} %"
            cells += ["–" if theirs is None else f"{theirs:.3f} ({difference})"]
        print("|", " | ".join(cells), "|")
    print()


def print_boxes(found: dict[str, float]) -> None:
    """The cheapest alternative of all, in one line."""
    per_image, bpp = found["per_image"], found["bpp"]
    print(f"Sending {per_image:.1f} boxes an image at {BOX_BITS} bits each takes {bpp:.4f} bpp.")
    print()


def print_sensitivity(rows: list[dict[str, Any]]) -> None:
    """BD-rates by the pseudo-labels' threshold, as a Markdown table."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    columns = [f"{task.replace('_', '-')}, {score:g}" for task in tasks for score in SCORES]
    print("| BD-rate against BPG (%) |", " | ".join(columns), "|")
    print("| --- |", " | ".join(["---:"] * len(columns)), "|")
    for system in dict.fromkeys(row["system"] for row in rows):
        mine = {(row["task"], row["score"]): row for row in rows if row["system"] == system}
        found = [mine.get((task, score)) for task in tasks for score in SCORES]
        title = next(iter(mine.values()))["title"]
        print(f"| {title} |", " | ".join(_cell(row and {"overlap": 1, **row}) for row in found), "|")
    print()


def print_points(found: dict[str, Results]) -> None:
    """Every point's rate and figures."""
    for task, results in found.items():
        print(f"{task}")
        for point in results.points:
            figures = [f"{name} {value:.3f}" for name, value in point.accuracy.items() if value is not None]
            if point.psnr is not None:
                figures.append(f"PSNR {point.psnr:.2f} dB, MS-SSIM {point.ms_ssim:.4f}")
            name = f"{point.title} {point.quality:g}, {point.labels}"
            print(f"  {name}: {point.bpp:.4f} bpp, {', '.join(figures)}")
        print()


if __name__ == "__main__":
    sys.exit(main())
