"""Importance-driven QP: α, block and clip chosen on the corpus; importance against brute force.

BPG (x265 medium) at the reader's size, on the first images of the validation part in which either detector
finds something at 0.3. Importance is yolov3-tiny's; yolov4-tiny, not consulted, judges the same files.
BD-rates are against BPG at the reader's size without offsets, at equal mAP@50:95 on pseudo-labels at 0.3 and
at equal output divergence, on real bytes over the original's pixels. Never run on the COCO sample.

`--brute-force N` instead codes one 64x64 block at a time 22 QP steps more coarsely than QP 17, on N images,
and gives the rank correlation of the divergence that this adds with what importance predicts.

`--network FILE` measures maps that an importance network predicts beside the detector's own, and the time of
the network as a share of BPG's at preset veryslow, on one thread.

    python benchmarks/importance.py [--images 30] [--json FILE]
    python benchmarks/importance.py --network runs/importance_small/model.safetensors
    python benchmarks/importance.py --images 5 --brute-force 5
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

from vcm.codecs import BPGCodec, qp_offsets
from vcm.data import ImageFolderDataset
from vcm.data.assets import asset_file
from vcm.encoding.reader import scale_prediction, scale_to_reader
from vcm.metrics.bd import bd_rate
from vcm.metrics.detection import DetectionAccuracy
from vcm.nn.importance import load_importance
from vcm.tasks import YOLOTask
from vcm.tasks.base import pseudo_target
from vcm.types import Prediction, Target

QPS = (47, 42, 37, 32, 27)
READERS = ("yolov3-tiny", "yolov4-tiny")
LATE = {"yolov3-tiny": "layer14", "yolov4-tiny": "layer28"}
"""Cuts from which outputs and predictions are both made without much work."""
SCORE = 0.3
CONFIGURATIONS = [
    *({"alpha": alpha, "block": 32, "clip": 9} for alpha in (0.5, 1.0, 1.5, 2.0, 3.0)),
    *({"alpha": 2.0, "block": block, "clip": 9} for block in (16, 64)),
    *({"alpha": 2.0, "block": 32, "clip": clip} for clip in (6, 12)),
    {"alpha": 3.0, "block": 32, "clip": 12},
]
NETWORK_CONFIGURATIONS = [{"alpha": alpha, "block": 32, "clip": 9} for alpha in (1.0, 2.0, 3.0, 4.0)]
COARSER = 22
BASE_QP = 17
"""Of the other blocks: fine, so that their own errors do not hide what one block adds."""


@dataclass(eq=False)
class Example:
    """An image, and what the readers make of it."""

    size: tuple[int, int]
    scaled: Tensor
    importance: Tensor
    targets: dict[str, Target]
    outputs: dict[str, dict[str, Tensor]]


@dataclass
class CurveOf:
    """Of one configuration: bpp at each QP, and by reader mAP and divergence."""

    bpp: list[float] = field(default_factory=list)
    accuracy: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in READERS})
    divergence: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in READERS})


def load_tasks() -> dict[str, YOLOTask]:
    return {
        name: YOLOTask(asset_file(name, f"{name}.cfg"), asset_file(name, f"{name}.weights"), cut=LATE[name])
        for name in READERS
    }


@torch.no_grad()
def run(task: YOLOTask, image: Tensor) -> tuple[Prediction, dict[str, Tensor]]:
    features = task.features([image.float() / 255])
    return task.tail(features)[0], task.outputs(features)


@torch.no_grad()
def heads(task: YOLOTask, image: Tensor) -> dict[str, Tensor]:
    return task.outputs(task.features([image.float() / 255]))


def load_examples(tasks: dict[str, YOLOTask], count: int) -> list[Example]:
    dataset = ImageFolderDataset(asset_file("photo-corpus", "."), part="val")
    examples: list[Example] = []
    for index in range(len(dataset)):
        image = dataset.image(index)
        targets = {
            name: pseudo_target(task.predict([image.float() / 255])[0], SCORE) for name, task in tasks.items()
        }
        if not any(len(target.boxes) for target in targets.values()):
            continue
        scaled = scale_to_reader(image, tasks[READERS[0]])
        importance = tasks[READERS[0]].importance(scaled.float() / 255)
        outputs = {name: heads(task, image) for name, task in tasks.items()}
        size = (image.shape[1], image.shape[2])
        examples.append(Example(size, scaled, importance, targets, outputs))
        if len(examples) == count:
            break
    return examples


def measure(
    examples: list[Example], tasks: dict[str, YOLOTask], settings: dict[str, float] | None
) -> CurveOf:
    """One configuration's curve; None: without offsets."""
    curve = CurveOf()
    maps = [qp_offsets(example.importance, **settings) if settings else None for example in examples]
    block = int(settings["block"]) if settings else 32
    for qp in QPS:
        codec = BPGCodec(qp, preset="medium")
        num_bytes = num_pixels = 0
        metrics = {name: DetectionAccuracy() for name in READERS}
        divergences: dict[str, list[float]] = {name: [] for name in READERS}
        for example, offsets in zip(examples, maps, strict=True):
            stream = codec.encode(example.scaled, offsets, block=block)
            decoded = codec.decode(stream)
            num_bytes += len(stream)
            num_pixels += math.prod(example.size)
            for name, task in tasks.items():
                found, outputs = run(task, decoded)
                found = scale_prediction(found, decoded.shape[1:], example.size)
                metrics[name].update([found], [example.targets[name]])
                divergences[name].append(task.output_divergence(outputs, example.outputs[name]).item())
        curve.bpp.append(8 * num_bytes / num_pixels)
        for name in READERS:
            curve.accuracy[name].append(float(metrics[name].compute()["map"]))
            curve.divergence[name].append(float(np.mean(divergences[name])))
    return curve


def compare(anchor: CurveOf, test: CurveOf) -> list[float | None]:
    """BD-rates at equal mAP and at equal divergence, by reader."""
    rates: list[float | None] = []
    for name in READERS:
        accuracy = [list(zip(c.bpp, c.accuracy[name], strict=True)) for c in (anchor, test)]
        rates.append(bd_rate(accuracy[0], accuracy[1], noise=0.02).value)
        logs = [
            [(bpp, -math.log(d)) for bpp, d in zip(c.bpp, c.divergence[name], strict=True)]
            for c in (anchor, test)
        ]
        rates.append(bd_rate(logs[0], logs[1]).value)
    return rates


def rank_correlation(first: Tensor, second: Tensor) -> float:
    """Spearman's."""
    ranks = torch.stack([x.flatten().argsort().argsort().double() for x in (first, second)])
    return float(torch.corrcoef(ranks)[0, 1])


def brute_force(example: Example, task: YOLOTask, block: int = 64) -> tuple[float, float]:
    """Rank correlations over blocks with the divergence that one coarser block adds.

    Returns:
        Of Σ importance · (added squared error), which predicts it, and of the block's importance alone with
        the divergence per added squared error.
    """
    codec = BPGCodec(BASE_QP, preset="medium")
    true = heads(task, example.scaled)
    plain = codec.decode(codec.encode(example.scaled))
    base = task.output_divergence(heads(task, plain), true).item()
    original = example.scaled.float() / 255
    rows, columns = (-(-side // block) for side in original.shape[1:])
    added, predicted, errors, means = (torch.zeros(rows, columns) for _ in range(4))
    for row in range(rows):
        for column in range(columns):
            offsets = torch.zeros(rows, columns, dtype=torch.int64)
            offsets[row, column] = COARSER
            decoded = codec.decode(codec.encode(example.scaled, offsets, block=block))
            added[row, column] = task.output_divergence(heads(task, decoded), true).item() - base
            error = (decoded.float() / 255 - original).square() - (plain.float() / 255 - original).square()
            predicted[row, column] = (example.importance * error.mean(dim=0)).sum()
            errors[row, column] = error.sum()
            means[row, column] = example.importance[
                row * block : (row + 1) * block, column * block : (column + 1) * block
            ].mean()
    return rank_correlation(predicted, added), rank_correlation(means, added / errors.clamp_min(1e-9))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=30)
    parser.add_argument("--brute-force", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--network", type=Path, metavar="FILE", help="importance network to measure")
    known = parser.parse_args()
    torch.set_num_threads(1)
    tasks = load_tasks()
    examples = load_examples(tasks, known.images)
    if known.brute_force:
        print("rank correlation with the divergence that one 64x64 block, 22 QP steps coarser, adds")
        print("image  Σ importance · error  importance, per error", flush=True)
        found = []
        for number, example in enumerate(examples[: known.brute_force]):
            found.append(brute_force(example, tasks[READERS[0]]))
            print(f"{number:<5d}  {found[-1][0]:20.3f}  {found[-1][1]:21.3f}", flush=True)
        print(f"mean   {np.mean(found, axis=0)[0]:20.3f}  {np.mean(found, axis=0)[1]:21.3f}", flush=True)
        return
    anchor = measure(examples, tasks, None)
    print(f"{len(examples)} images, QP {', '.join(map(str, QPS))}: bpp {[round(b, 4) for b in anchor.bpp]}")
    for name in READERS:
        print(f"  {name}: mAP {[round(a, 3) for a in anchor.accuracy[name]]}")
    print("BD-rate against no offsets, %")
    print("                          yolov3-tiny         yolov4-tiny")
    print("alpha  block  clip     mAP  divergence     mAP  divergence", flush=True)
    curves = [{"settings": None, **vars(anchor)}]
    if known.network is None:
        curves += [
            {"settings": settings, **vars(show(examples, tasks, settings, anchor))}
            for settings in CONFIGURATIONS
        ]
    else:
        show(examples, tasks, {"alpha": 2.0, "block": 32, "clip": 9}, anchor, "the detector's")
        network = load_importance(known.network)
        share = seconds(lambda image: network.importance(image.float() / 255), examples) / seconds(
            BPGCodec(37, preset="veryslow").encode, examples
        )
        for example in examples:
            example.importance = network.importance(example.scaled.float() / 255)
        curves += [
            {"settings": settings, **vars(show(examples, tasks, settings, anchor, "network"))}
            for settings in NETWORK_CONFIGURATIONS
        ]
        print(f"The network takes {100 * share:.1f} % of the time of BPG at QP 37, preset veryslow.")
    if known.json:
        known.json.write_text(json.dumps(curves, indent=1) + "\n")


def show(
    examples: list[Example],
    tasks: dict[str, YOLOTask],
    settings: dict[str, float],
    anchor: CurveOf,
    name: str = "",
) -> CurveOf:
    """Measure one configuration and print its row."""
    curve = measure(examples, tasks, settings)
    rates = ["     –" if rate is None else f"{rate:+6.1f}" for rate in compare(anchor, curve)]
    print(
        f"{settings['alpha']:5.1f}  {settings['block']:5d}  {settings['clip']:4d}  "
        f"{rates[0]}  {rates[1]:>10}  {rates[2]}  {rates[3]:>10}  {name}".rstrip(),
        flush=True,
    )
    return curve


def seconds(function: Callable[[Tensor], object], examples: list[Example]) -> float:
    """Median seconds of a call on the images at the reader's size."""
    found = []
    for example in examples:
        start = time.perf_counter()
        function(example.scaled)
        found.append(time.perf_counter() - start)
    return float(np.median(found))


if __name__ == "__main__":
    main()
