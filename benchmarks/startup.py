"""Seconds from typing a command to its first result, over what the interpreter and torch take by themselves.

Runs in turn `python -c pass`, `python -c "import torch"`, `vcm compress` of one image of 160 × 120 pixels for
detection, and `vcm info` of its stream, each in a process of its own with one thread; prints medians and
differences of medians, and lists the slow imports that `vcm compress` must not make.

    vcm fetch yolov3-tiny
    python benchmarks/startup.py [--repeats 7]
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
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from vcm.provenance import processor_name

RESULTS = Path(__file__).resolve().parent / "results/startup.json"
AVOIDED = (
    *("compressai.models", "compressai.datasets", "torch_geometric", "scipy.stats._stats_py", "pandas"),
    *("torchvision", "torch._dynamo", "lightning", "torchmetrics", "matplotlib"),
)
"""Slow imports that `vcm compress` must not make."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7, help="processes of each kind; 7 by default")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        image, stream = Path(folder) / "photo.png", Path(folder) / "photo.vcm"
        pixels = np.random.default_rng(0).integers(0, 256, (15, 20, 3), dtype=np.uint8)
        Image.fromarray(np.kron(pixels, np.ones((8, 8, 1), np.uint8))).save(image)
        compress = ["-m", "vcm", "compress", str(image), "--for", "detection", "-o", str(stream)]
        commands = {
            "python": ["-c", "pass"],
            "import torch": ["-c", "import torch"],
            "vcm compress": compress,
            "vcm info": ["-m", "vcm", "info", str(stream)],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats + 1):  # the first fills the disk's cache
            for name, command in commands.items():
                if name == "vcm compress":
                    stream.unlink(missing_ok=True)
                seconds[name].append(run(command))
        stream.unlink()
        imported = imports(compress)
    medians = {name: median(values[1:]) for name, values in seconds.items()}
    figures: dict[str, Any] = {
        "seconds": medians,
        "compress_over_torch": medians["vcm compress"] - medians["import torch"],
        "info_over_python": medians["vcm info"] - medians["python"],
        "avoided_but_imported": sorted(imported & set(AVOIDED)),
        "repeats": repeats,
        "processor": processor_name(),
    }
    for name, value in medians.items():
        print(f"{name:14} {value:.2f} s")
    print(f"vcm compress, one image: {figures['compress_over_torch']:.2f} s over import torch")
    print(f"vcm info: {figures['info_over_python']:.2f} s over bare Python")
    print(f"slow imports: {', '.join(figures['avoided_but_imported']) or 'none'}")
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def run(command: list[str]) -> float:
    """Seconds of a process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment())
    return time.perf_counter() - start


def imports(command: list[str]) -> set[str]:
    """Names of all modules that a process imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}


def environment() -> dict[str, str]:
    """One thread, as everything else here is measured."""
    return {**os.environ, "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    sys.exit(main())
