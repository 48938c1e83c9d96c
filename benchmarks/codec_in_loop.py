"""How fast a BPG encoder in the loop is: in process on a pool of threads, against files and subprocesses.

Both sides encode and decode the same pictures with x265's same preset, on the same number of threads, in
turns, in one run; the ratio is the median over the turns of the other route's seconds by the pool's: by the
clock, of processor time, and of encoding and decoding alone. The other route is `bpgenc` and `bpgdec` where
they are on PATH, else libheif's `heif-enc` and `heif-convert` (or `heif-dec`), each kept to one thread a
picture and set to about the pool's rate.

    python benchmarks/codec_in_loop.py [--pictures FOLDER] [--json FILE]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vcm.codecs import ArrayCodec, BPGCodec, BPGSubprocessCodec, Codec, CodecPool, RoundTrip, raise_failures
from vcm.codecs.program import ProgramRunner
from vcm.errors import VCMError
from vcm.types import QualityScale

Pixels = npt.NDArray[np.uint8]

SIZES = (256, 512)
LEVELS = {"medium": 5, "veryslow": 8}
"""`bpgenc -m` by x265 preset."""
THREADS = (1, 2)


class HEIFFileCodec(ArrayCodec):
    """HEVC intra by libheif's programs, through files: PNG, heif-enc, heif-convert, PNG."""

    name: ClassVar[str] = "heif"
    title: ClassVar[str] = "HEIF (heif-enc)"
    suffix: ClassVar[str] = ".heic"
    quality_scale: ClassVar[QualityScale] = QualityScale("quality", 0, 100, higher_is_better=True, default=30)

    def __init__(self, quality: float = 30, *, preset: str = "veryslow") -> None:
        self.quality = self.quality_scale.check(quality)
        self.preset = preset
        self._runner = ProgramRunner(timeout_s=120)
        self._decoder = shutil.which("heif-dec") or shutil.which("heif-convert")

    def encode_array(self, pixels: Pixels) -> bytes:
        """Write a PNG, run heif-enc, read its file."""
        options = [
            f"preset={self.preset}",
            "tune=ssim",
            "chroma=420",
            "x265:pools=none",
            "x265:frame-threads=1",
        ]
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "in.png"), Path(folder, "out.heic")
            Image.fromarray(pixels).save(source, compress_level=1)
            parameters = [word for option in options for word in ("-p", option)]
            self._runner.run(
                ["heif-enc", "-q", str(self.quality), *parameters, "-o", str(target), str(source)]
            )
            return target.read_bytes()

    def decode_array(self, data: bytes) -> Pixels:
        """Write the stream, run heif-convert, read its PNG."""
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "in.heic"), Path(folder, "out.png")
            source.write_bytes(data)
            self._runner.run([str(self._decoder), str(source), str(target)])
            with Image.open(io.BytesIO(target.read_bytes())) as picture:
                return np.array(picture.convert("RGB"))

    @classmethod
    def unavailable(cls) -> str:
        """Say which package has the programs, where they are missing."""
        found = shutil.which("heif-enc") and (shutil.which("heif-dec") or shutil.which("heif-convert"))
        return "" if found else "install libheif-examples (Debian), or bpgenc and bpgdec"

    def implementation(self) -> str:
        """The x265 that heif-enc says it has."""
        listing = self._runner.run(["heif-enc", "--list-encoders"])
        return next((line.strip(" -") for line in listing.splitlines() if "x265" in line), "libheif")


def make_pictures(size: int, count: int) -> list[Tensor]:
    """Pictures with a photograph's spectrum (about 1/f) and correlated channels."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) + 1 / (2 * size)
    pictures = []
    for _ in range(count):
        spectrum = np.fft.rfft2(rng.normal(size=(3, size, size))) / frequency**1.6
        planes = np.fft.irfft2(spectrum, s=(size, size))
        planes /= planes.std(axis=(1, 2), keepdims=True)
        rgb = 120 + 45 * planes[:1] + 12 * planes
        pictures.append(torch.from_numpy(np.clip(rgb, 0, 255).astype(np.uint8)))
    return pictures


def read_pictures(folder: Path, size: int, count: int) -> list[Tensor]:
    """The first pictures of a folder, cut to their largest central square and scaled to `size`."""
    pictures = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png") and len(pictures) < count:
            with Image.open(path) as image:
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                box = (left, top, left + side, top + side)
                square = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box)
            pictures.append(torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous())
    if not pictures:
        sys.exit(f"{folder} holds no JPEG or PNG files.")
    return pictures


@dataclass(frozen=True, eq=False)
class Turn:
    """One batch through one route.

    Attributes:
        wall_s: Seconds by the clock.
        cpu_s: Seconds of processor time, those of subprocesses among them.
        trips: What came of each picture.
    """

    wall_s: float
    cpu_s: float
    trips: list[RoundTrip]

    @property
    def encode_s(self) -> float:
        """Seconds of encoding, summed over the pictures."""
        return sum(trip.encode_s for trip in self.trips)

    @property
    def decode_s(self) -> float:
        """Seconds of decoding, summed over the pictures."""
        return sum(trip.decode_s for trip in self.trips)

    @property
    def bpp(self) -> float:
        """Bits a pixel over the batch."""
        return sum(trip.num_bits for trip in self.trips) / sum(trip.image[0].numel() for trip in self.trips)


def run(pool: CodecPool, codec: Codec, pictures: list[Tensor]) -> Turn:
    """Take a batch through a codec and back."""
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    trips = raise_failures(pool.round_trip(codec, pictures))
    return Turn(time.perf_counter() - start, sum(os.times()[:4]) - cpu, trips)


def other_codec(quality: int, preset: str, rate: float, pictures: list[Tensor]) -> Codec:
    """The route through files; for heif-enc, at the quality whose rate is nearest to `rate`."""
    if not BPGSubprocessCodec.unavailable():
        return BPGSubprocessCodec(quality, level=LEVELS[preset])
    if reason := HEIFFileCodec.unavailable():
        sys.exit(f"No route to compare with: {reason}.")
    low, high = 0, 100
    with CodecPool(workers=2) as pool:
        while high - low > 1:
            middle = (low + high) // 2
            reached = run(pool, HEIFFileCodec(middle, preset=preset), pictures).bpp
            low, high = (middle, high) if reached < rate else (low, middle)
    return HEIFFileCodec(high, preset=preset)


def compare(size: int, preset: str, quality: int, pictures: list[Tensor], turns: int) -> list[dict[str, Any]]:
    """One row for each number of threads."""
    codec = BPGCodec(quality, preset=preset)
    rows = []
    with CodecPool(workers=2) as pool:
        rate = run(pool, codec, pictures).bpp
    other = other_codec(quality, preset, rate, pictures)
    for threads in THREADS:
        with CodecPool(workers=threads) as pool:
            run(pool, other, pictures)
            times = [(run(pool, codec, pictures), run(pool, other, pictures)) for _ in range(turns)]
        walls = [files.wall_s / ours.wall_s for ours, files in times]
        rows.append(
            {
                "size": size,
                "preset": preset,
                "threads": threads,
                "pool_ms_per_picture": 1e3
                * statistics.median(ours.wall_s for ours, _ in times)
                / len(pictures),
                "files_ms_per_picture": 1e3
                * statistics.median(files.wall_s for _, files in times)
                / len(pictures),
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


def machine_facts(quality: int) -> dict[str, Any]:
    """What the figures depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    other = HEIFFileCodec() if BPGSubprocessCodec.unavailable() else BPGSubprocessCodec()
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "pool": BPGCodec(quality).implementation(),
        "files": other.implementation(),
    }


def main() -> None:
    """Compare, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pictures", type=Path, help="folder of JPEG or PNG files (default: made at run time)"
    )
    parser.add_argument("--count", type=int, default=6, help="pictures in a batch (default: %(default)s)")
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
            pictures = read_pictures(arguments.pictures, size, count) if arguments.pictures else None
            pictures = pictures or make_pictures(size, count)
            for preset in LEVELS:
                for row in compare(size, preset, arguments.quality, pictures, arguments.turns):
                    rows.append(row)
                    print(
                        f"{size:5d} {preset:9s} {row['threads']:7d} {row['pool_ms_per_picture']:8.1f} "
                        f"{row['files_ms_per_picture']:9.1f} {row['ratio']:6.2f} "
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
