"""What each part of the preprocessor's training is good for: the same training without it.

Trains `experiment=npp/small` whole, without a proxy (its image is the identity's, its rate a constant), and
without the rate term; and `experiment=npp/small_jpeg`, whose model then stands before BPG. Each for as many
epochs, from the same seed. Then measures BPG alone and after each of them, from real bytes, and prints
BD-rates. A training that was stopped goes on when the same command is given again.

    vcm train experiment=proxy/bpg_small && vcm train experiment=proxy/bpg_finetune_small   # the proxy, once
    python benchmarks/npp_ablations.py [--epochs 20] [--task yolov4_tiny] [--limit N]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

TRAININGS = {
    "whole": ["experiment=npp/small"],
    "without proxy": ["experiment=npp/small", "proxy=identity"],
    "without rate": ["experiment=npp/small", "module.rate_weight=0"],
    "trained on JPEG": ["experiment=npp/small_jpeg"],
}
TASK_WEIGHT = 16.0
"""So short trainings need a stronger push towards the task than long ones."""
QUALITIES = [44, 40, 37, 34, 31, 28, 25]
RATES = [0.25, 0.5, 1, 2, 4, 8, 16]
PROXY = "runs/proxy_bpg_finetune_small/model.safetensors"


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description="Ablations of the preprocessor's training.")
    parser.add_argument("--epochs", type=int, default=20, help="of each training (default: %(default)s)")
    parser.add_argument("--task", default="yolov3_tiny", help="what judges")
    parser.add_argument("--preset", default="veryslow", help="x265's, of the codec that is judged")
    parser.add_argument("--limit", type=int, help="images to judge on; all of the COCO sample by default")
    known = parser.parse_args()
    if not Path(PROXY).exists():
        sys.exit(f"{PROXY} is missing: train it as this file's first lines say.")
    vcm = shutil.which("vcm") or str(Path(sys.executable).with_name("vcm"))
    codec = {"_target_": "vcm.codecs.BPGCodec", "preset": known.preset}
    codecs: dict[str, Any] = {"bpg": {"codec": codec, "qualities": QUALITIES}}
    for name, overrides in TRAININGS.items():
        run = f"npp_ablation_{name.replace(' ', '_')}"
        length = [f"trainer.max_epochs={known.epochs}", "trainer.check_val_every_n_epoch=4"]
        weight = f"module.task_weight={TASK_WEIGHT}"
        subprocess.run([vcm, "train", *overrides, f"name={run}", weight, *length], check=True)
        model = f"runs/{run}/model.safetensors"
        preprocessor = {"_target_": "vcm.encoding.preprocessing.NPPPreprocessor", "model": model}
        curve = {"codec": codec, "qualities": QUALITIES, "lmbda": RATES, "preprocessor": preprocessor}
        codecs[name.replace(" ", "_")] = curve
    arguments = [f"task={known.task}", "data=coco_sample", "name=npp_ablations", "codec=[]"]
    arguments += [f"+codecs.{name}={_hydra(curve)}" for name, curve in codecs.items()]
    if known.limit:
        arguments.append(f"data.test.limit={known.limit}")
    subprocess.run([vcm, "evaluate", *arguments], check=True)
    subprocess.run([vcm, "report", "runs/npp_ablations"], check=True)


def _hydra(value: object) -> str:
    """A value as Hydra's command line takes it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_hydra(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_hydra, value)) + "]"
    return str(value)


if __name__ == "__main__":
    main()
