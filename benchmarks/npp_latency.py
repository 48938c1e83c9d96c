"""How long the neural preprocessor takes, beside the encoder that follows it.

All sides take turns, in one run; a ratio is the median over the turns. The preprocessor runs as in `vcm
preprocess` and `vcm evaluate`, uint8 to uint8 at one λ, on the given number of threads; an encoder takes one
thread for an image, whatever that number. The image is a mosaic of COCO's. The networks are new: what
weights they have does not change their time.

    python benchmarks/npp_latency.py [--json FILE] [--rounds N] [--images FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimmable_latency import THREADS, in_turns, ratio
from vcm.codecs import BPGCodec, Codec, JPEGCodec
from vcm.data import read_image
from vcm.data.assets import asset_file
from vcm.data.reading import find_images
from vcm.encoding.preprocessing import NPPPreprocessor
from vcm.nn.preprocessor import QuantizationAdaptiveNPP

CHANNELS = ((32, 64, 128, 256), (16, 32, 64, 128), (8, 16, 32, 64))
SIZES = ((512, 512), (1080, 1920))
RATE = 1.0
ENCODERS: dict[str, Codec] = {
    "BPG veryslow": BPGCodec(quality=37),
    "BPG medium": BPGCodec(quality=37, preset="medium"),
    "JPEG": JPEGCodec(quality=50),
}


def mosaic(folder: Path, size: tuple[int, int]) -> Tensor:
    """Images side by side, cut to one of (3, height, width)."""
    height, width = size
    files = iter(find_images(folder))
    rows: list[Tensor] = []
    while sum(row.shape[1] for row in rows) < height:
        row = read_image(next(files))
        while row.shape[2] < width:
            other = read_image(next(files))
            shared = min(row.shape[1], other.shape[1])
            row = torch.cat((row[:, :shared], other[:, :shared]), dim=2)
        rows.append(row[:, :, :width])
    return torch.cat(rows, dim=1)[:, :height].contiguous()


def compare(image: Tensor, rounds: int) -> list[dict[str, Any]]:
    """Each width of the preprocessor by each encoder."""
    preprocessors = {str(c): NPPPreprocessor(QuantizationAdaptiveNPP(c), lmbda=RATE) for c in CHANNELS}
    sides = {name: partial(preprocessor, image) for name, preprocessor in preprocessors.items()}
    times = in_turns(
        {**sides, **{name: partial(codec.encode, image) for name, codec in ENCODERS.items()}}, rounds
    )
    return [
        {
            "channels": channels,
            "parameters": sum(p.numel() for p in preprocessors[str(channels)].network.parameters()),
            "npp_ms": 1e3 * statistics.median(times[str(channels)]),
            "encoder_ms": {name: 1e3 * statistics.median(times[name]) for name in ENCODERS},
            "ratio": {name: ratio(times, str(channels), name) for name in ENCODERS},
        }
        for channels in CHANNELS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--rounds", type=int, default=5, help="turns (default: 5)")
    parser.add_argument("--images", type=Path, help="folder of images; those of coco-sample by default")
    arguments = parser.parse_args()
    folder = arguments.images or asset_file("coco-sample", "images")
    machine = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
    }
    print("  ".join(f"{name}: {value}" for name, value in machine.items()), end="\n\n")
    found: dict[str, Any] = {"machine": machine, "rows": []}
    print("the preprocessor's time in ms, and by that of the encoder that follows it")
    names = "  ".join(f"by {name:>12}" for name in ENCODERS)
    print(f"threads  size       channels           parameters     NPP ms  {names}")
    for threads in THREADS:
        torch.set_num_threads(threads)
        for size in SIZES:
            rows = compare(mosaic(folder, size), arguments.rounds)
            for row in rows:
                found["rows"].append({"threads": threads, "size": size, **row})
                ratios = "  ".join(f"{row['ratio'][name]:>15.2f}" for name in ENCODERS)
                channels = "-".join(map(str, row["channels"]))
                print(
                    f"{threads:>7}  {f'{size[1]}x{size[0]}':<9}  {channels:<17} {row['parameters']:>11} "
                    f"{row['npp_ms']:>10.0f}  {ratios}"
                )
            encoders = ", ".join(f"{name} {ms:.0f}" for name, ms in rows[0]["encoder_ms"].items())
            print(f"         encoders, in ms: {encoders}", flush=True)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
