"""Training in bfloat16 against float32 on a CPU: time of a step, and the quality after equal steps.

Trains `experiment=slimmable/two_task_small` with `trainer.precision=bf16-mixed` and `32-true`, both at once
on one thread each, so that both sides meet the same machine, from the same seeds. Prints the median seconds
of a step and their ratio, and the held-out loss and figures after the last step, for each seed: the
difference between precisions is compared with that between seeds.

    vcm fetch photo-corpus yolov3-tiny
    python benchmarks/precision.py [--epochs 3] [--seeds 1 2 3] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

PRECISIONS = ("32-true", "bf16-mixed")
FIGURES = ("val/loss", "val/detection/bpp", "val/detection/feature_error", "val/reconstruction/psnr")
RESULTS = Path(__file__).resolve().parent / "results/precision.txt"
_WARM_UP = 5


class StepTimes(Callback):
    """Writes the seconds of every training step to a file.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path, self.seconds = Path(path), []  # type: ignore[var-annotated]
        self._begun = 0.0

    def on_train_batch_start(self, *_: object) -> None:
        self._begun = time.perf_counter()

    def on_train_batch_end(self, *_: object) -> None:
        self.seconds.append(time.perf_counter() - self._begun)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self.path.write_text(json.dumps(self.seconds))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=3, help="of each run; 3 by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, help="of the runs; a temporary one by default")
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = known.folder or Path(temporary)
        found = {seed: train(folder, seed, known.epochs) for seed in known.seeds}
    lines = [f"$ python benchmarks/precision.py --epochs {known.epochs} --seeds {' '.join(map(str, found))}"]
    steps = next(iter(found.values()))[PRECISIONS[0]][2]
    lines += [f"after {steps} steps of 4 crops of 128x128 pixels"]
    lines += [f"{'seed':>4}  {'precision':<10}  {'step, s':>7}  " + "  ".join(FIGURES)]
    for seed, sides in found.items():
        for precision, (seconds, figures, _) in sides.items():
            cells = [f"{figures[name]:{len(name)}.4f}" for name in FIGURES]
            lines.append(f"{seed:>4}  {precision:<10}  {seconds:7.3f}  " + "  ".join(cells))
    ratios = [sides[PRECISIONS[0]][0] / sides[PRECISIONS[1]][0] for sides in found.values()]
    lines.append(f"float32 takes {fmean(ratios):.2f} times as long ({min(ratios):.2f} to {max(ratios):.2f})")
    means = {p: fmean(sides[p][1]["val/loss"] for sides in found.values()) for p in PRECISIONS}
    losses = [sides[PRECISIONS[0]][1]["val/loss"] for sides in found.values()]
    lines.append(
        f"mean loss: float32 {means[PRECISIONS[0]]:.4f}, bfloat16 {means[PRECISIONS[1]]:.4f}; "
        f"float32's seeds are within {min(losses):.4f} to {max(losses):.4f}"
    )
    print("\n".join(lines))
    RESULTS.write_text("\n".join(lines) + "\n")
    return 0


def train(folder: Path, seed: int, epochs: int) -> dict[str, tuple[float, dict[str, Any], int]]:
    """Train both sides at once.

    Returns:
        Median seconds of a step, the last validation's figures, and the number of steps, by precision.
    """
    running = {}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    for precision in PRECISIONS:
        run = folder / f"{precision}-{seed}"
        callback = f"{{_target_: precision.StepTimes, path: {run / 'steps.json'}}}"
        running[precision] = subprocess.Popen(
            [
                *(sys.executable, "-m", "vcm", "train", "experiment=slimmable/two_task_small"),
                *(f"run_dir={run}", f"seed={seed}", f"trainer.precision={precision}"),
                *(f"trainer.max_epochs={epochs}", f"trainer.check_val_every_n_epoch={epochs}"),
                f"+trainer.callbacks=[{callback}]",
            ],
            env=environment,
            stdout=subprocess.DEVNULL,
        )
    statuses = [process.wait() for process in running.values()]
    if any(statuses):
        raise SystemExit("a training failed")
    found = {}
    for precision in PRECISIONS:
        run = folder / f"{precision}-{seed}"
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        validated = [row for row in rows if "val/loss" in row][-1]
        seconds = json.loads((run / "steps.json").read_text())
        found[precision] = (median(seconds[_WARM_UP:]), validated, len(seconds))
    return found


if __name__ == "__main__":
    sys.exit(main())
