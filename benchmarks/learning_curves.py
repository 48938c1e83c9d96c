"""Learning curves of the shipped models: validation figures over training steps.

Reads the logs of `vcm train` (RUN/metrics.jsonl), several runs of one model in the order of its stages, and
keeps their validation figures in benchmarks/results/learning_curves.json. Draws a row of plots for each model
into docs/learning_curves.svg. Validation images are those of the photo corpus' validation part.

    python benchmarks/learning_curves.py --model slimmable runs/first_stage runs/second_stage
    python benchmarks/learning_curves.py      # draw again
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from vcm.evaluation.report.plots import COLOURS, STYLE

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/learning_curves.json"
PLOT = ROOT / "docs/learning_curves.svg"
SHOWN = {
    "slimmable": {
        "val/detection/loss": "narrow: loss",
        "val/detection/bpp": "narrow: bpp",
        "val/detection/feature_error": "narrow: error",
        "val/reconstruction/loss": "full: loss",
        "val/reconstruction/psnr": "full: PSNR (dB)",
    },
    "importance": {"val/loss": "squared error (octaves²)", "val/explained": "explained variance"},
    "npp": {"val/loss": "loss"},
}
"""The plots of each model, and their titles."""
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SHOWN, help="model of the runs")
    parser.add_argument(
        "runs", nargs="*", type=Path, help="run folders of `vcm train`, in order of the stages"
    )
    known = parser.parse_args()
    if bool(known.model) != bool(known.runs):
        parser.error("give --model and runs, or neither")
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not (found or known.model):
        parser.error(f"there is no {RESULTS}: give --model and runs")
    if known.model:
        found[known.model] = rows_of(known.runs, list(SHOWN[known.model]))
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    PLOT.write_text(plot(found))
    for model, rows in found.items():
        for row in rows:
            figures = ", ".join(f"{name} {row[name]:.4f}" for name in SHOWN[model])
            print(f"{model}, stage {row['stage']}, step {row['step']}: {figures}")


def rows_of(runs: list[Path], names: list[str]) -> list[Row]:
    """The validations of several runs, with steps counted from the first."""
    rows: list[Row] = []
    before = 0
    for stage, run in enumerate(runs, 1):
        step = before
        for line in (run / "metrics.jsonl").read_text().splitlines():
            content = json.loads(line)
            step = before + content["step"]
            if all(content.get(name) is not None for name in names):
                rows.append({"stage": stage, "step": step, **{name: content[name] for name in names}})
        before = step
    return rows


def plot(found: dict[str, list[Row]]) -> str:
    """A row of plots for each model, as SVG."""
    columns = max(len(SHOWN[model]) for model in found)
    with mpl.rc_context({**STYLE, "font.size": 9}):
        figure, axes = plt.subplots(
            len(found), columns, figsize=(2.9 * columns, 2.4 * len(found)), squeeze=False
        )
        for line, (model, rows) in zip(axes, found.items(), strict=True):
            for axis, (name, title) in zip(line, SHOWN[model].items(), strict=False):
                for stage in dict.fromkeys(row["stage"] for row in rows):
                    mine = [row for row in rows if row["stage"] == stage]
                    steps, values = [row["step"] / 1000 for row in mine], [row[name] for row in mine]
                    axis.plot(steps, values, "o-", ms=3, color=COLOURS[stage - 1], label=f"stage {stage}")
                axis.set_title(f"{model}, {title}", fontsize=9)
                axis.set_xlabel("steps (1000)")
                axis.set_xlim(left=0)
            line[0].legend(frameon=False, fontsize=8)
            for axis in line[len(SHOWN[model]) :]:
                axis.set_visible(False)
        figure.tight_layout()
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()


if __name__ == "__main__":
    main()
