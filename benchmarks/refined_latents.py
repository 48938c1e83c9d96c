"""Can an encoder learn what the search finds? Regression of the narrow encoder onto refined latents.

Refines the latents of crops of the photo corpus' training part by search, trains the shipped slimmable
codec's narrow encoder to predict them (mean squared error, decoder frozen), and codes crops of the
validation part with the shipped encoder at several qualities, with a search, and with the trained encoder.
Rates are real bytes; the distance is the one that the search reduces, that of the detector's features and
raw outputs from the original's. Refined latents are stored by model, and not computed again.

    vcm fetch yolov3-tiny photo-corpus
    python benchmarks/refined_latents.py [--crops 110] [--val-crops 30] [--effort 20] [--epochs 30]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from vcm.cli.models import load_model_task
from vcm.codecs import SlimmableFeatureCodec
from vcm.codecs.learned.effort import Effort, feature_search
from vcm.codecs.learned.streams import Search, StreamCoder
from vcm.data import ImageFolderDataset
from vcm.data.assets import asset_file
from vcm.encoding.features import search_objective
from vcm.files import write_bytes
from vcm.nn.slimmable import Symbols, load_network
from vcm.weights import SLIMMABLE_YOLOV3_TINY, shipped

TASK = "detection"
QUALITY = 3.0
AROUND = (2.0, 2.25, 2.5, 2.75, 3.0)
"""Qualities of the shipped encoder to compare with."""
SIDE = 256
LEARNING_RATE, BATCH_SIZE = 2e-4, 4


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--crops", type=int, default=110, help="number of training crops")
    parser.add_argument("--val-crops", type=int, default=30, help="number of validation crops")
    parser.add_argument("--effort", type=int, default=20, help="steps of the search")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of the regression")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/refined_latents"), help="where refined latents are stored"
    )
    known = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = load_network(shipped(SLIMMABLE_YOLOV3_TINY))
    codec = SlimmableFeatureCodec(QUALITY, model=network)
    objective = search_objective(codec, load_model_task(shipped(SLIMMABLE_YOLOV3_TINY), TASK))
    effort = Effort(known.effort, None, codec.training.lmbdas)
    coder = StreamCoder(network, TASK, QUALITY)
    parts = {"train": crops("train", known.crops), "val": crops("val", known.val_crops)}

    def search(x: Tensor) -> Search:
        found = feature_search(coder, x, effort, num_pixels=SIDE**2, objective=objective, on_step=None)
        assert found is not None
        return found

    targets: dict[str, list[Tensor]] = {part: [] for part in parts}
    folder = known.folder / f"{coder.fingerprint.hex()}-{SIDE}-quality{QUALITY:g}-effort{known.effort}"
    folder.mkdir(parents=True, exist_ok=True)
    for part, images in parts.items():
        for number, x in enumerate(images):
            path = folder / f"{part}-{number}.safetensors"
            if not path.exists():
                write_bytes(path, save({"y_hat": refined(coder, x, search(x))}))
                print(f"{part}: {number + 1} of {len(images)}", file=sys.stderr)
            targets[part].append(load_file(path)["y_hat"])

    def measure(coder: StreamCoder, search: Callable[[Tensor], Search] | None = None) -> str:
        found = [code(coder, x, objective(x), search and search(x)) for x in parts["val"]]
        rates, distances = zip(*found, strict=True)
        return f"{fmean(rates):.4f} | {fmean(distances):.4f}"

    print("| encoder, on validation crops | bpp | distance |")
    print("| --- | ---: | ---: |")
    for quality in AROUND:
        print(f"| as shipped, quality {quality:g} | {measure(StreamCoder(network, TASK, quality))} |")
    print(
        f"| as shipped, quality {QUALITY:g}, effort {known.effort} | {measure(coder, search)} |", flush=True
    )
    inputs = {part: torch.cat(images) for part, images in parts.items()}
    latents = {part: torch.stack(found) for part, found in targets.items()}
    before = {part: error(coder, inputs[part], latents[part]) for part in parts}
    regress(coder, inputs["train"], latents["train"], known.epochs)
    print(f"| trained on refined latents, quality {QUALITY:g} | {measure(coder)} |")
    after = {part: error(coder, inputs[part], latents[part]) for part in parts}
    for part in parts:
        print(f"mean squared error of the latent, {part}: {before[part]:.4f} -> {after[part]:.4f}")
    return 0


def crops(part: Literal["train", "val"], number: int) -> list[Tensor]:
    """The centres, (1, 3, 256, 256) in [0, 1], of the first images that are large enough."""
    dataset = ImageFolderDataset(asset_file("photo-corpus", "."), part=part)
    images = (dataset.image(index) for index in range(len(dataset)))
    large = islice((image for image in images if min(image.shape[1:]) >= SIDE), number)
    found = []
    for image in large:
        top, left = ((side - SIDE) // 2 for side in image.shape[1:])
        found.append(image[None, :, top : top + SIDE, left : left + SIDE].float() / 255)
    return found


def refined(coder: StreamCoder, x: Tensor, search: Search) -> Tensor:
    """The latent (C, h, w) that the search finds, as the encoder's output is before quantization."""
    kept: list[Tensor] = []

    def keep(y: Tensor, symbols: Symbols) -> Symbols:
        found = search(y, symbols)
        with torch.no_grad():
            kept.append(coder.network.dequantize(found, coder.task).reshape(y.shape[1:]).contiguous())
        return found

    coder.encode(x, (SIDE, SIDE), keep)
    return kept[0]


@torch.no_grad()
def code(
    coder: StreamCoder, x: Tensor, distance: Callable[[Tensor], Tensor], search: Search | None
) -> tuple[float, float]:
    """Bits per pixel of a crop's stream, and the distance of the decoded features."""
    data = coder.encode(x, (SIDE, SIDE), search)
    return 8 * len(data) / SIDE**2, float(distance(coder.decode(data)[1]))


@torch.no_grad()
def error(coder: StreamCoder, x: Tensor, y: Tensor) -> float:
    """Mean squared error of the encoder's latents."""
    pairs = zip(torch.split(x, BATCH_SIZE), torch.split(y, BATCH_SIZE), strict=True)
    return sum(float((coder.encoder.g_a(a) - b).square().sum()) for a, b in pairs) / y.numel()


def regress(coder: StreamCoder, x: Tensor, y: Tensor, epochs: int) -> None:
    """Train the encoder's analysis transform on refined latents, with a cosine schedule."""
    g_a = coder.encoder.g_a.requires_grad_(True)
    optimizer = torch.optim.Adam(g_a.parameters(), lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(x)), BATCH_SIZE):
            loss = (g_a(x[chosen]) - y[chosen]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()


if __name__ == "__main__":
    sys.exit(main())
