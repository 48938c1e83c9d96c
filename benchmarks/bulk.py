"""Many small images compressed on one and on two processes: time, memory over time, and a kill.

Writes images of 64×64 pixels, compresses them into narrow streams with one worker and with two, and samples
the resident memory of all processes together ten times a second. A third run is killed with SIGKILL after a
third of the images and started again with the same manifest. Prints images a second, the ratio, memory after
a fifth of the run and at its end, and how many images the second start found done.

Results go to benchmarks/results/bulk.json.

    vcm fetch yolov3-tiny
    python benchmarks/bulk.py [--images 10000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RESULTS = Path(__file__).resolve().parent / "results/bulk.json"
_SAMPLE_S = 0.1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="of images and streams; a temporary one by default")
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = known.folder or Path(temporary)
        write_images(folder / "images", known.images)
        runs = {workers: compress(folder, workers) for workers in (1, 2)}
        killed = kill_and_go_on(folder, known.images // 3)
        streams = [
            {p.name: p.read_bytes() for p in (folder / name).rglob("*.vcm")} for name in ("1", "2", "killed")
        ]
    assert streams[0] == streams[1] == streams[2], "streams differ"
    assert len(streams[0]) == known.images
    found = {"images": known.images, "runs": runs, "killed": killed}
    found["speedup"] = runs[1]["seconds"] / runs[2]["seconds"]
    print_results(found)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def print_results(found: dict[str, Any]) -> None:
    """Print a Markdown table, and two lines."""
    print("| workers | images a second | memory after a fifth, MB | at the end, MB |")
    print("| ---: | ---: | ---: | ---: |")
    for workers, run in found["runs"].items():
        rate = found["images"] / run["seconds"]
        print(f"| {workers} | {rate:.1f} | {run['early_mb']:.0f} | {run['late_mb']:.0f} |")
    print()
    print(f"{found['images']:,} images, two workers {found['speedup']:.2f} times as fast as one.")
    print(f"Killed with SIGKILL and started again: {found['killed']:,} images were not compressed twice.")


def write_images(folder: Path, number: int) -> None:
    """Write coloured squares as JPEG files, 1,000 to a folder."""
    rng = np.random.default_rng(0)
    for index in range(number):
        pixels = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        place = folder / f"{index // 1000:03d}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{index:06d}.jpg", quality=90)


def command(folder: Path, output: str, workers: int) -> list[str]:
    """Compress all images into a folder, with a manifest."""
    given = [sys.executable, "-m", "vcm", "compress", str(folder / "images"), "--for", "detection"]
    options = ["--workers", str(workers), "--manifest", str(folder / f"{output}.jsonl")]
    return [*given, "-o", str(folder / output), *options]


def compress(folder: Path, workers: int) -> dict[str, float]:
    """Seconds, and megabytes of all processes after a fifth of the run and at its end."""
    start = time.perf_counter()
    process = subprocess.Popen(command(folder, str(workers), workers), start_new_session=True)
    samples = []
    while process.poll() is None:
        samples.append(resident_mb(process.pid))
        time.sleep(_SAMPLE_S)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit("vcm compress failed")
    tenth = max(1, len(samples) // 10)
    early, late = samples[2 * tenth : 3 * tenth], samples[-tenth - 5 : -5]
    return {"seconds": seconds, "early_mb": float(np.median(early)), "late_mb": float(np.median(late))}


def kill_and_go_on(folder: Path, after: int) -> int:
    """Kill a run once so many images are done; returns how many the next start skips."""
    manifest = folder / "killed.jsonl"
    process = subprocess.Popen(command(folder, "killed", 2), start_new_session=True)
    while process.poll() is None:
        if manifest.exists() and manifest.read_bytes().count(b"\n") > after:
            break
        time.sleep(_SAMPLE_S)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run(command(folder, "killed", 2), check=True, capture_output=True, text=True)
    (there,) = re.findall(r"(\d+) there already", again.stdout)
    return int(there)


def resident_mb(session: int) -> float:
    """Resident memory of a session's processes in megabytes; pages that they share count once for each."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            total += int(fields[21])
    return total * 4096 / 1e6


if __name__ == "__main__":
    sys.exit(main())
