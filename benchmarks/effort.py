"""What an encoder-side search buys: rate, accuracy, feature error and seconds by the steps that it takes.

Encodes images with the slimmable codec that comes with vcm, at several efforts: its narrow streams for
yolov3-tiny, and its full ones for people. Decoders, tables and container are the same at every effort. Narrow
streams are judged by the detector's own predictions on the originals (pseudo-labels at 0.3), from real bytes
over the original images' pixels; full ones by PSNR and MS-SSIM. Images are the corpus' validation part, those
with most detections, on which all settings were chosen, and the COCO sample, on which none were.

    vcm fetch yolov3-tiny photo-corpus coco-sample
    python benchmarks/effort.py [--images 16] [--efforts 0 5 10 30 100] [--qualities 2]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from vcm.cli.models import load_task
from vcm.codecs import FeatureCodec, LearnedCodec
from vcm.data import PictureFolderDataset
from vcm.data.assets import asset_file
from vcm.evaluation.features import encode_for, predict_from, search_objective
from vcm.metrics.distortion import ms_ssim, psnr
from vcm.nn.slimmable import MultiTaskNetwork, load_network
from vcm.tasks import Task
from vcm.tasks.distance import feature_objective
from vcm.tasks.pseudo import pseudo_target
from vcm.weights import SLIMMABLE_YOLOV3_TINY, shipped

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/effort.json"
SETS = {
    "corpus, validation part": ("photo-corpus", ".", "val"),
    "COCO sample": ("coco-sample", "images", "all"),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=16, help="of each set; 16 by default")
    parser.add_argument("--efforts", type=int, nargs="+", default=[0, 5, 10, 30, 100])
    parser.add_argument("--qualities", type=float, nargs="+", default=[2.0])
    parser.add_argument(
        "--full-images", type=int, default=4, help="of each set for full streams; 4 by default, 0 for none"
    )
    known = parser.parse_args()
    torch.set_num_threads(1)
    network, task = (
        load_network(shipped(SLIMMABLE_YOLOV3_TINY)),
        load_task(shipped(SLIMMABLE_YOLOV3_TINY), "detection"),
    )
    rows: list[dict[str, Any]] = []
    for name, (asset, folder, part) in SETS.items():
        dataset = PictureFolderDataset(asset_file(asset, folder), part=part)
        images = chosen(dataset, task, known.images if part == "val" else None)[: known.images]
        for quality in known.qualities:
            for effort in known.efforts:
                keep(rows, {"images": name, **narrow(network, task, images, quality, effort)})
            for metric in ("mse", "ms_ssim") if known.full_images else ():
                for effort in known.efforts:
                    row = full(network, images[: known.full_images], quality, effort, metric)
                    keep(rows, {"images": name, **row})
    RESULTS.write_text(json.dumps({"rows": rows, "arguments": vars(known)}, indent=1) + "\n")
    return 0


def chosen(dataset: PictureFolderDataset, task: Task, number: int | None) -> list[Tensor]:
    """The images with most detections, or the dataset's own order."""
    images = [dataset.image(index) for index in range(len(dataset) if number else 95)]
    if number is None:
        return images
    counts = [int((task.predict([image.float() / 255])[0].scores >= 0.3).sum()) for image in images]
    best = sorted(range(len(images)), key=lambda index: -counts[index])[:number]
    return [images[index] for index in best]


def narrow(
    network: MultiTaskNetwork, task: Task, images: list[Tensor], quality: float, effort: int
) -> dict[str, Any]:
    """Narrow streams: rate, accuracy, error of the features at layers 13 and 8, seconds of the encoder."""
    codec = FeatureCodec(quality, model=network, effort=effort)
    codec.objective = search_objective(codec, task)
    distance = feature_objective(task, "layer13")
    metric, num_bytes, num_pixels, errors, seconds = task.metric(), 0, 0, [], []
    for image in images:
        start = time.perf_counter()
        data = encode_for(task, codec, image)
        seconds.append(time.perf_counter() - start)
        decoded = codec.decode(data)
        x = task.prepare([image.float() / 255]).inputs
        with torch.no_grad():
            errors.append(float(distance(x)(decoded[0])))
        truth = pseudo_target(task.predict([image.float() / 255])[0], 0.3)
        metric.update([predict_from(task, decoded)], [truth])
        num_bytes, num_pixels = num_bytes + len(data), num_pixels + image[0].numel()
    accuracy = {key: float(value) for key, value in metric.compute().items() if key in ("map", "map_50")}
    return {
        "stream": "narrow",
        "quality": quality,
        "effort": effort,
        "bpp": 8 * num_bytes / num_pixels,
        **accuracy,
        "feature_error": fmean(errors),
        "seconds": fmean(seconds),
    }


def full(
    network: MultiTaskNetwork, images: list[Tensor], quality: float, effort: int, metric: str
) -> dict[str, Any]:
    """Full streams: rate, PSNR, MS-SSIM, seconds of the encoder."""
    codec = LearnedCodec(quality, model=network, effort=effort, metric=metric)  # type: ignore[arg-type]
    found: list[tuple[float, ...]] = []
    num_bytes = num_pixels = 0
    for image in images:
        start = time.perf_counter()
        data = codec.encode(image)
        seconds = time.perf_counter() - start
        decoded = codec.decode(data)
        found.append((psnr(decoded, image), ms_ssim(decoded, image), seconds))
        num_bytes, num_pixels = num_bytes + len(data), num_pixels + image[0].numel()
    columns = [fmean(values) for values in zip(*found, strict=True)]
    names = ("psnr", "ms_ssim", "seconds")
    figures = dict(zip(names, columns, strict=True))
    return {
        "stream": f"full, {metric}",
        "quality": quality,
        "effort": effort,
        "bpp": 8 * num_bytes / num_pixels,
        **figures,
    }


def keep(rows: list[dict[str, Any]], row: dict[str, Any]) -> None:
    """Print a row, and keep it."""
    rows.append(row)
    print(", ".join(_cells(row)), flush=True)


def _cells(row: dict[str, Any]) -> Iterator[str]:
    for name, value in row.items():
        yield f"{name} {value:.4f}" if isinstance(value, float) and name != "quality" else f"{name} {value}"


if __name__ == "__main__":
    sys.exit(main())
