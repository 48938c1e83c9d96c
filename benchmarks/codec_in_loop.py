"""How fast a BPG encoder in the loop is: in process on a pool of threads, against files and subprocesses.

Both sides encode and decode the same images with x265's same preset, on the same number of threads, in
turns, in one run; the ratio is the median over the turns of the other route's seconds by the pool's: by the
clock, of processor time, and of encoding and decoding alone. The other route is that of file_route.py.

    python benchmarks/codec_in_loop.py [--images FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from file_route import LEVELS, file_codec, machine_facts, make_images, read_images
from vcm.codecs import BPGCodec, Codec, CodecPool, RoundTrip, raise_failures
from vcm.errors import VCMError

SIZES = (256, 512)
THREADS = (1, 2)


@dataclass(frozen=True, eq=False)
class Turn:
    """One batch through one route.

    Attributes:
        wall_s: Seconds by the clock.
        cpu_s: Seconds of processor time, those of subprocesses among them.
        trips: What came of each image.
    """

    wall_s: float
    cpu_s: float
    trips: list[RoundTrip]

    @property
    def encode_s(self) -> float:
        """Seconds of encoding, summed over the images."""
        return sum(trip.encode_s for trip in self.trips)

    @property
    def decode_s(self) -> float:
        """Seconds of decoding, summed over the images."""
        return sum(trip.decode_s for trip in self.trips)

    @property
    def bpp(self) -> float:
        """Bits a pixel over the batch."""
        return sum(trip.num_bits for trip in self.trips) / sum(trip.image[0].numel() for trip in self.trips)


def run(pool: CodecPool, codec: Codec, images: list[Tensor]) -> Turn:
    """Take a batch through a codec and back."""
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    trips = raise_failures(pool.round_trip(codec, images))
    return Turn(time.perf_counter() - start, sum(os.times()[:4]) - cpu, trips)


def compare(size: int, preset: str, quality: int, images: list[Tensor], turns: int) -> list[dict[str, Any]]:
    """One row for each number of threads."""
    codec = BPGCodec(quality, preset=preset)
    rows = []
    other = file_codec(quality, preset, images)
    for threads in THREADS:
        with CodecPool(workers=threads) as pool:
            run(pool, other, images)
            times = [(run(pool, codec, images), run(pool, other, images)) for _ in range(turns)]
        walls = [files.wall_s / ours.wall_s for ours, files in times]
        rows.append(
            {
                "size": size,
                "preset": preset,
                "threads": threads,
                "pool_ms_per_image": 1e3 * statistics.median(ours.wall_s for ours, _ in times) / len(images),
                "files_ms_per_image": 1e3
                * statistics.median(files.wall_s for _, files in times)
                / len(images),
                "ratio": statistics.median(walls),
                "ratio_lowest": min(walls),
                "ratio_highest": max(walls),
                "ratio_cpu": statistics.median(files.cpu_s / ours.cpu_s for ours, files in times),
                "ratio_encode": statistics.median(files.encode_s / ours.encode_s for ours, files in times),
                "ratio_decode": statistics.median(files.decode_s / ours.decode_s for ours, files in times),
                "pool_bpp": times[0][0].bpp,
                "files_bpp": times[0][1].bpp,
                "files_route": repr(other),
            }
        )
    return rows


def main() -> None:
    """Compare, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of JPEG or PNG files (default: made at run time)")
    parser.add_argument("--count", type=int, default=6, help="images in a batch (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="turns, each route once (default: %(default)s)")
    parser.add_argument("--quality", type=int, default=37, help="BPG's QP (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        facts = machine_facts(arguments.quality)
        for key, value in facts.items():
            print(f"{key}: {value}")
        print("\n size preset    threads  pool ms  files ms  ratio (range)       cpu  encode  decode  bpp")
        rows = []
        for size in SIZES:
            count = arguments.count
            images = read_images(arguments.images, size, count) if arguments.images else None
            images = images or make_images(size, count)
            for preset in LEVELS:
                for row in compare(size, preset, arguments.quality, images, arguments.turns):
                    rows.append(row)
                    print(
                        f"{size:5d} {preset:9s} {row['threads']:7d} {row['pool_ms_per_image']:8.1f} "
                        f"{row['files_ms_per_image']:9.1f} {row['ratio']:6.2f} "
                        f"({row['ratio_lowest']:.2f}-{row['ratio_highest']:.2f}) {row['ratio_cpu']:6.2f}"
                        f"{row['ratio_encode']:8.2f} {row['ratio_decode']:7.2f}"
                        f"{row['pool_bpp']:9.3f}/{row['files_bpp']:.3f}",
                        flush=True,
                    )
    except VCMError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": facts, "results": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
