"""What an encoder-side search buys: rate, accuracy, error and seconds by the steps that it takes.

Encodes images at several efforts: into the narrow and full streams of the slimmable codec that comes with
vcm, and into BPG files at the reader's size with QPs from importance. Decoders, tables and containers are the
same at every effort. Narrow streams and BPG are judged by yolov3-tiny's own predictions on the originals
(pseudo-labels at 0.3), BPG also by those of yolov4-tiny, which no search looks at; full streams by PSNR and
MS-SSIM. Rates are real bytes over the original images' pixels. Images are those of the corpus' validation
part with most detections, on which all settings were chosen, and the first of the COCO sample, on which none
were.

Figures go to benchmarks/results/effort.json, the plot to docs/effort.svg; what is there already for the same
images is not measured again.

    vcm fetch yolov3-tiny yolov4-tiny photo-corpus coco-sample
    python benchmarks/effort.py [--images 12] [--full-images 4] [--efforts 0 5 10 30 100]
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from vcm import load_task
from vcm.cli.models import load_model_task
from vcm.codecs import BPGCodec, LearnedCodec, SlimmableFeatureCodec
from vcm.data import ImageFolderDataset
from vcm.data.assets import asset_file
from vcm.encoding.encoder import ImageEncoder
from vcm.encoding.features import encode_for, predict_from, search_objective
from vcm.encoding.reader import Importance, scale_prediction, scale_to_reader
from vcm.encoding.search import ImageSearch
from vcm.metrics.distortion import ms_ssim, psnr
from vcm.nn.slimmable import MultiTaskNetwork, load_network
from vcm.tasks import SplitTask
from vcm.tasks.base import pseudo_target
from vcm.tasks.distance import feature_objective, image_distance
from vcm.weights import SLIMMABLE_YOLOV3_TINY, shipped

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/effort.json"
QUALITY = 2.0
"""Of the slimmable model."""
QP = 40
QPS = (50, 45, 35, 30)
"""For the curve without a search, beside `QP`."""
TITLES = {
    "narrow": "Narrow streams, quality 2",
    "BPG": f"BPG at QP {QP}, reader's size, importance QP",
    "full": "Full streams, quality 2, searched for MS-SSIM",
}
_RATE, _SECONDS = {"bpp": ("bpp", 4)}, {"encoder, s": ("seconds", 1)}
COLUMNS: dict[str, dict[str, tuple[str, int]]] = {
    "narrow": {
        **_RATE,
        "mAP@50:95": ("map", 3),
        "mAP@50": ("map_50", 3),
        "error at layers 13 and 8": ("feature_error", 3),
        **_SECONDS,
    },
    "BPG": {
        **_RATE,
        "mAP@50:95": ("map", 3),
        "yolov4-tiny's": ("map_other", 3),
        "error of features and outputs": ("feature_error", 3),
        **_SECONDS,
    },
    "full": {**_RATE, "PSNR, dB": ("psnr", 2), "MS-SSIM": ("ms_ssim", 4), **_SECONDS},
}
"""Title to key and digits."""
SETS = {
    "corpus, validation part": ("photo-corpus", ".", "val"),
    "COCO sample": ("coco-sample", "images", "all"),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=12, help="of each set; 12 by default")
    parser.add_argument("--full-images", type=int, default=4, help="of each set for full streams")
    parser.add_argument("--efforts", type=int, nargs="+", default=[0, 5, 10, 30, 100])
    known = parser.parse_args()
    torch.set_num_threads(1)
    network = load_network(shipped(SLIMMABLE_YOLOV3_TINY))
    task = load_model_task(shipped(SLIMMABLE_YOLOV3_TINY), "detection")
    readers = {name: load_task(name) for name in ("yolov3_tiny", "yolov4_tiny")}
    settings = {"images": known.images, "full_images": known.full_images}
    table = Table(RESULTS, settings)
    for name, (asset, folder, part) in SETS.items():
        dataset = ImageFolderDataset(asset_file(asset, folder), part=part)
        images = chosen(dataset, task, known.images if part == "val" else None)[: known.images]
        for effort in known.efforts:
            key = {"images": name, "stream": "narrow", "quality": QUALITY, "effort": effort}
            table.measure(key, partial(narrow, network, task, images, QUALITY, effort))
        for effort, qp in [*((0, qp) for qp in QPS), *((effort, QP) for effort in known.efforts)]:
            key = {"images": name, "stream": "BPG", "quality": qp, "effort": effort}
            table.measure(key, partial(bpg, readers, images, qp, effort))
        for effort in known.efforts:
            key = {"images": name, "stream": "full", "quality": QUALITY, "effort": effort}
            table.measure(key, partial(full, network, images[: known.full_images], QUALITY, effort))
    table.print()
    (ROOT / "docs/effort.svg").write_text(plot(table.rows))
    return 0


class Table:
    """Rows that are kept in a file as soon as they are measured, and not measured again."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        content = json.loads(path.read_text()) if path.exists() else {}
        self.path, self.settings = path, settings
        self.rows: list[dict[str, Any]] = content["rows"] if content.get("settings") == settings else []

    def measure(self, key: dict[str, Any], function: Callable[[], dict[str, float]]) -> None:
        """Measure a row unless there is one."""
        if any(key.items() <= row.items() for row in self.rows):
            return
        self.rows.append({**key, **function()})
        print(self.rows[-1], file=sys.stderr, flush=True)
        self.path.write_text(json.dumps({"rows": self.rows, "settings": self.settings}, indent=1) + "\n")

    def print(self) -> None:
        """Print a Markdown table for each kind of stream."""
        measured = {row["stream"] for row in self.rows}
        for stream, columns in [(s, c) for s, c in COLUMNS.items() if s in measured]:
            print(f"| {TITLES[stream]} | effort |", " | ".join(columns), "|")
            print("| --- | ---: |", " | ".join(["---:"] * len(columns)), "|")
            for row in self.rows:
                if row["stream"] == stream and row["quality"] in (QUALITY, QP):
                    cells = [f"{row[name]:.{digits}f}" for name, digits in columns.values()]
                    print(f"| {row['images']} | {row['effort']} |", " | ".join(cells), "|")
            print()


def chosen(dataset: ImageFolderDataset, task: SplitTask, number: int | None) -> list[Tensor]:
    """The images with most detections, or the dataset's own order."""
    images = [dataset.image(index) for index in range(len(dataset) if number else 95)]
    if number is None:
        return images
    counts = [int((task.predict([image.float() / 255])[0].scores >= 0.3).sum()) for image in images]
    best = sorted(range(len(images)), key=lambda index: -counts[index])[:number]
    return [images[index] for index in best]


def narrow(
    network: MultiTaskNetwork, task: SplitTask, images: list[Tensor], quality: float, effort: int
) -> dict[str, float]:
    """Narrow streams: rate, accuracy, error of the features at layers 13 and 8, seconds of the encoder."""
    codec = SlimmableFeatureCodec(quality, model=network, effort=effort)
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
        "bpp": 8 * num_bytes / num_pixels,
        **accuracy,
        "feature_error": fmean(errors),
        "seconds": fmean(seconds),
    }


def bpg(readers: dict[str, SplitTask], images: list[Tensor], qp: int, effort: int) -> dict[str, float]:
    """BPG at the reader's size with QPs from importance: rate, accuracy of both readers, error, seconds."""
    reader = readers["yolov3_tiny"]
    search = ImageSearch(effort) if effort else None
    encoder = ImageEncoder(BPGCodec(qp), reader, at_reader=True, importance=Importance(), search=search)
    metrics = {name: task.metric() for name, task in readers.items()}
    num_bytes, num_pixels, errors, seconds = 0, 0, [], []
    for image in images:
        start = time.perf_counter()
        data = encoder.encode(image)
        seconds.append(time.perf_counter() - start)
        decoded = encoder.codec.decode(data)
        original = scale_to_reader(image, reader)
        with torch.no_grad():
            distance = image_distance(reader)(original[None].float() / 255)
            errors.append(float(distance(decoded[None].float() / 255)))
        for name, task in readers.items():
            truth = pseudo_target(task.predict([image.float() / 255])[0], 0.3)
            found = task.predict([decoded.float() / 255])[0]
            metrics[name].update([scale_prediction(found, decoded.shape[1:], image.shape[1:])], [truth])
        num_bytes, num_pixels = num_bytes + len(data), num_pixels + image[0].numel()
    accuracy = {name: float(metric.compute()["map"]) for name, metric in metrics.items()}
    return {
        "bpp": 8 * num_bytes / num_pixels,
        "map": accuracy["yolov3_tiny"],
        "map_other": accuracy["yolov4_tiny"],
        "feature_error": fmean(errors),
        "seconds": fmean(seconds),
    }


def full(network: MultiTaskNetwork, images: list[Tensor], quality: float, effort: int) -> dict[str, float]:
    """Full streams, searched for MS-SSIM: rate, PSNR, MS-SSIM, seconds of the encoder."""
    codec = LearnedCodec(quality, model=network, effort=effort, metric="ms_ssim")
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
    figures = dict(zip(("psnr", "ms_ssim", "seconds"), columns, strict=True))
    return {"bpp": 8 * num_bytes / num_pixels, **figures}


def plot(rows: list[dict[str, Any]]) -> str:
    """Accuracy over rate, a line over efforts for each kind of stream, as SVG."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for axis, name in zip(axes, SETS, strict=True):
        mine = [row for row in rows if row["images"] == name]
        lines = {
            "BPG, importance QP, effort 0": [r for r in mine if r["stream"] == "BPG" and r["effort"] == 0],
            f"BPG at QP {QP}, by effort": [r for r in mine if r["stream"] == "BPG" and r["quality"] == QP],
            "narrow stream, by effort": [r for r in mine if r["stream"] == "narrow"],
        }
        for label, line in lines.items():
            by_effort = label.endswith("by effort")
            line.sort(key=lambda row: row["effort"] if by_effort else row["bpp"])
            xs, ys = [row["bpp"] for row in line], [100 * row["map"] for row in line]
            axis.plot(xs, ys, "o-" if by_effort else "--", markersize=4, label=label)
            for row, x, y in zip(line, xs, ys, strict=True):
                if by_effort:
                    axis.annotate(
                        str(row["effort"]), (x, y), textcoords="offset points", xytext=(5, -3), fontsize=8
                    )
        axis.set(title=name, xlabel="bits per pixel", xscale="log")
        axis.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5])
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.grid(visible=True, which="both", alpha=0.3)
    axes[0].set_ylabel("mAP@50:95 of yolov3-tiny, pseudo-labels (%)")
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    text = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "vcm"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
