"""What preprocessors save before BPG at equal error of a detector's features, on held-out photographs.

72 random crops of the photo corpus' validation part, 192 × 192 pixels, seen by yolov3-tiny at 128 × 128, as
in the preprocessors' training: BPG (preset medium) alone and after each model, real bytes, at pairs of λ and
QP that they were trained with. Errors are relative, at layers 13 and 8, all that the detector's heads need.
That is steadier than the mAP of few images: trainings are compared by it.

    vcm fetch photo-corpus yolov3-tiny
    python benchmarks/npp_features.py MODEL [MODEL …]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from vcm.codecs import BPGCodec
from vcm.data import ImageFolderDataset
from vcm.data.assets import asset_file
from vcm.data.transforms import RandomCrop
from vcm.encoding.preprocessing import NPPPreprocessor
from vcm.losses.outputs import relative_errors
from vcm.metrics.bd import bd_rate
from vcm.tasks import YOLOTask

NUM_CROPS, CROP, SEEN = 72, 192, 128
PAIRS = {44: 0.25, 40: 0.5, 37: 1.0, 34: 2.0, 31: 4.0, 28: 8.0}
"""λ by QP."""
LAYERS = ("layer13", "layer8")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, help="quantization-adaptive preprocessors")
    known = parser.parse_args()
    torch.set_num_threads(1)
    task = YOLOTask(
        cfg=asset_file("yolov3-tiny", "yolov3-tiny.cfg"),
        weights=asset_file("yolov3-tiny", "yolov3-tiny.weights"),
        names=asset_file("yolov3-tiny", "coco.names"),
        cut=LAYERS[0],
        input_size=SEEN,
    )
    crops = validation_crops()
    anchor = curve(task, crops, None)
    show("BPG", anchor, anchor)
    for model in known.models:
        show(str(model), curve(task, crops, model), anchor)


def validation_crops() -> list[Tensor]:
    """(3, 192, 192) uint8 each; the same at every call."""
    torch.manual_seed(5)
    images = ImageFolderDataset(asset_file("photo-corpus", "."), part="val")
    crop = RandomCrop(CROP, smallest_scale=0.25)
    return [crop(images[number % len(images)]).image for number in range(NUM_CROPS)]


@torch.no_grad()
def curve(task: YOLOTask, crops: list[Tensor], model: Path | None) -> list[list[float]]:
    """A row a QP: bits per pixel, and the mean relative error at each layer."""
    originals = [task.features([crop.float() / 255]).tensors for crop in crops]
    rows = []
    for quality, rate in PAIRS.items():
        codec = BPGCodec(quality=quality, preset="medium")
        filtered = NPPPreprocessor(model, lmbda=rate) if model else None
        bits, errors = 0, []
        for crop, original in zip(crops, originals, strict=True):
            data = codec.encode(filtered(crop) if filtered else crop)
            bits += 8 * len(data)
            seen = task.features([codec.decode(data).float() / 255]).tensors
            errors.append([float(relative_errors({n: seen[n]}, {n: original[n]}).mean()) for n in LAYERS])
        means = [sum(column) / len(crops) for column in zip(*errors, strict=True)]
        rows.append([bits / (len(crops) * CROP**2), *means])
    return rows


def show(name: str, found: list[list[float]], anchor: list[list[float]]) -> None:
    """A model's points, and its BD-rate at each layer."""
    print(name)
    for (bpp, *errors), (quality, rate) in zip(found, PAIRS.items(), strict=True):
        shown = ", ".join(f"{layer} {error:.4f}" for layer, error in zip(LAYERS, errors, strict=True))
        print(f"  QP {quality}, λ {rate:g}: {bpp:.4f} bpp, relative errors: {shown}")
    for number, layer in enumerate(LAYERS, 1):
        theirs, ours = ([(row[0], -10 * math.log10(row[number])) for row in rows] for rows in (anchor, found))
        if found is not anchor:
            print(f"  BD-rate at equal error at {layer}: {bd_rate(theirs, ours).value:+.1f} %")


if __name__ == "__main__":
    main()
