"""A torchvision detector as a task: any model that returns boxes, scores and labels.

python examples/own_detector.py FOLDER_OF_IMAGES
"""

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchvision.models.detection import SSDLite320_MobileNet_V3_Large_Weights, ssdlite320_mobilenet_v3_large

import vcm
from vcm.types import Detections, Prediction, Settings


class TorchvisionDetector(vcm.tasks.Task):
    """A detector of torchvision's, by its builder and weights."""

    kind = "detection"

    def __init__(self, model: nn.Module, name: str, categories: Sequence[str]) -> None:
        super().__init__()
        self.model, self.name, self.categories = model, name, tuple(categories)
        self.freeze()

    @torch.no_grad()
    def predict(self, images: Tensor | Sequence[Tensor]) -> list[Prediction]:
        return [
            Detections(found["boxes"], found["scores"], found["labels"])
            for found in self.model([image.to(self.device) for image in images])
        ]

    def metric(self) -> Metric:
        return vcm.metrics.DetectionAccuracy()

    def settings(self) -> Settings:
        return {"name": self.name}


def main(folder: str, weights: SSDLite320_MobileNet_V3_Large_Weights | None = None) -> None:
    weights = weights or SSDLite320_MobileNet_V3_Large_Weights.DEFAULT
    model = ssdlite320_mobilenet_v3_large(weights=weights)
    task = TorchvisionDetector(model, "ssdlite320", weights.meta["categories"])
    report(task, folder)


def report(task: vcm.tasks.Task, folder: str) -> None:
    bpg = [vcm.codecs.BPGCodec(qp, preset="fast") for qp in (47, 42, 37, 32)]
    jpeg = [vcm.codecs.JPEGCodec(quality) for quality in (5, 10, 20, 40)]
    results = vcm.evaluate({"bpg": bpg, "jpeg": jpeg}, task, folder, bootstrap=0)
    for name in ("bpg", "jpeg"):
        print(name, [(round(rate, 3), round(accuracy, 3)) for rate, accuracy in results.curve(name)])


if __name__ == "__main__":
    main(*sys.argv[1:])
