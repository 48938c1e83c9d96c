"""vcm's metrics in someone else's evaluation loop: real rate, distortion, mAP, and a BD-rate.

vcm fetch yolov3-tiny
python examples/metrics_in_your_loop.py FOLDER_OF_IMAGES
"""

import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import vcm
from vcm.types import BoxTarget, Detections


def webp(image: Tensor, quality: int) -> tuple[bytes, Tensor]:
    """Any codec: here Pillow's WebP."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "WEBP", quality=quality)
    decoded = np.array(Image.open(buffer).convert("RGB"))
    return buffer.getvalue(), torch.from_numpy(decoded).permute(2, 0, 1)


def pseudo_label(found: Detections, score: float = 0.3) -> BoxTarget:
    """Boxes that the detector is sure of on the original are what it should find in the decoded image."""
    kept = found.scores >= score
    boxes = found.boxes[kept]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return BoxTarget(boxes, found.labels[kept], torch.zeros(len(boxes), dtype=torch.bool), area)


def main(folder: str) -> None:
    task = vcm.load_task("yolov3_tiny")
    images = [vcm.data.read_image(path) for path in sorted(Path(folder).iterdir())]
    for quality in (5, 30, 80):
        rate, psnr, accuracy = vcm.metrics.Rate(), vcm.metrics.PSNR(), vcm.metrics.DetectionAccuracy()
        for image in images:
            stream, decoded = webp(image, quality)
            rate.update(len(stream), image.shape[1], image.shape[2])
            psnr.update(decoded, image)
            ((found,), (original,)) = (task.predict([x.float() / 255]) for x in (decoded, image))
            accuracy.update([found], [pseudo_label(original)])
        print(
            f"WebP {quality}: {rate.compute()['bpp']:.3f} bpp, {psnr.compute():.2f} dB, "
            f"mAP {100 * accuracy.compute()['map']:.1f} %"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
