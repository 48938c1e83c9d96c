"""What the benchmarks with a codec in the loop share: the route through files, and images.

The route is `bpgenc` and `bpgdec` where they are on PATH, else libheif's `heif-enc` and `heif-convert` (or
`heif-dec`), each kept to one thread an image and set to about the pool's rate.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from vcm.codecs import ArrayCodec, BPGCodec, BPGSubprocessCodec, Codec, CodecPool, raise_failures
from vcm.codecs.program import ProgramRunner
from vcm.types import QualityScale

Pixels = npt.NDArray[np.uint8]

LEVELS = {"medium": 5, "veryslow": 8}
"""`bpgenc -m` by x265 preset."""


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
            with Image.open(io.BytesIO(target.read_bytes())) as image:
                return np.array(image.convert("RGB"))

    @classmethod
    def unavailable(cls) -> str:
        """Say which package has the programs, where they are missing."""
        found = shutil.which("heif-enc") and (shutil.which("heif-dec") or shutil.which("heif-convert"))
        return "" if found else "install libheif-examples (Debian), or bpgenc and bpgdec"

    def implementation(self) -> str:
        """The x265 that heif-enc says it has."""
        listing = self._runner.run(["heif-enc", "--list-encoders"])
        return next((line.strip(" -") for line in listing.splitlines() if "x265" in line), "libheif")


def make_images(size: int, count: int) -> list[Tensor]:
    """Images with a photograph's spectrum (about 1/f) and correlated channels."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) + 1 / (2 * size)
    images = []
    for _ in range(count):
        spectrum = np.fft.rfft2(rng.normal(size=(3, size, size))) / frequency**1.6
        planes = np.fft.irfft2(spectrum, s=(size, size))
        planes /= planes.std(axis=(1, 2), keepdims=True)
        rgb = 120 + 45 * planes[:1] + 12 * planes
        images.append(torch.from_numpy(np.clip(rgb, 0, 255).astype(np.uint8)))
    return images


def read_images(folder: Path, size: int, count: int) -> list[Tensor]:
    """The first images of a folder, cut to their largest central square and scaled to `size`."""
    images = []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png") and len(images) < count:
            with Image.open(path) as image:
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                box = (left, top, left + side, top + side)
                square = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box)
            images.append(torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous())
    if not images:
        sys.exit(f"{folder} holds no JPEG or PNG files.")
    return images


def file_codec(quality: int, preset: str, images: list[Tensor]) -> Codec:
    """The route through files; for heif-enc, at the quality whose rate is nearest to that of `BPGCodec`."""
    if not BPGSubprocessCodec.unavailable():
        return BPGSubprocessCodec(quality, level=LEVELS[preset])
    if reason := HEIFFileCodec.unavailable():
        sys.exit(f"No route to compare with: {reason}.")
    low, high = 0, 100
    with CodecPool(workers=2) as pool:
        rate = num_bits(pool, BPGCodec(quality, preset=preset), images)
        while high - low > 1:
            middle = (low + high) // 2
            reached = num_bits(pool, HEIFFileCodec(middle, preset=preset), images)
            low, high = (middle, high) if reached < rate else (low, middle)
    return HEIFFileCodec(high, preset=preset)


def num_bits(pool: CodecPool, codec: Codec, images: list[Tensor]) -> int:
    """Bits of all images' streams."""
    return sum(8 * len(encoded.data) for encoded in raise_failures(pool.encode(codec, images)))


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
