"""A task whose features are local means: enough to train on in seconds."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from vcm.metrics.detection import DetectionAccuracy
from vcm.tasks import SplitTask
from vcm.types import Detections, Features, Prepared


class MeanTask(SplitTask):
    """Sees means of 8 × 8 pixels; finds one box where an image is bright.

    The box has the centre and the spread of the brightness, so that features that are only somewhat right
    give a box that is somewhat right.
    """

    kind = "detection"
    name = "mean"
    categories = ("bright",)
    cut = "pool"
    cuts = ("pool",)

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(2.0))
        self.freeze()

    def prepare(self, images):
        (image,) = images
        padded = F.pad(image[None], (0, -image.shape[2] % 8, 0, -image.shape[1] % 8))
        return Prepared(padded, (tuple(image.shape[1:]),))

    def encode(self, prepared):
        return Features({"pool": self.gain * F.avg_pool2d(prepared.inputs, 8)}, prepared.image_sizes)

    def tail(self, features):
        found = []
        for cells in features.tensors["pool"]:
            light = cells.mean(0).clamp(min=0.01)
            spans = []
            for along in (light.sum(0), light.sum(1)):
                share, place = along / along.sum(), torch.arange(len(along)) + 0.5
                middle = (share * place).sum()
                spread = (share * (place - middle).square()).sum().sqrt()
                spans.append((middle - 1.5 * spread, middle + 1.5 * spread))
            (left, right), (top, bottom) = spans
            box = 8 * torch.stack([left, top, right, bottom])
            score = light.mean().sigmoid()
            found.append(Detections(box[None], score[None], torch.zeros(1, dtype=torch.int64)))
        return found

    def loss(self, images, targets):
        raise AssertionError("the codec's training does not ask for it")

    def metric(self):
        return DetectionAccuracy()

    def settings(self):
        return {"name": self.name}
