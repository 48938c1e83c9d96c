"""A small world to evaluate in: bright rectangles on dark noise, and a task that finds what is bright."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vcm.codecs import CodecPool, JPEGCodec, WebPCodec
from vcm.data import COCODataset
from vcm.evaluation.evaluate import Evaluation
from vcm.evaluation.pipelines import ImagePipeline
from vcm.metrics.detection import DetectionAccuracy
from vcm.tasks import SplitTask
from vcm.types import BoxTarget, Detections, Features, Prepared


class BrightTask(SplitTask):
    """Finds one box around the pixels that are brighter than a threshold."""

    kind = "detection"
    name = "bright"
    categories = ("bright", "dark")
    cut = "blur"

    def __init__(self, threshold=0.6):
        super().__init__()
        self.threshold = threshold
        self.blur = nn.Conv2d(3, 1, 3, padding=1)
        nn.init.constant_(self.blur.weight, 1 / 27)
        nn.init.zeros_(self.blur.bias)
        self.predictions = 0
        self.freeze()

    @property
    def cuts(self):
        return ("blur",)

    def prepare(self, images):
        return Prepared(images[0][None], (images[0].shape[1:],))

    def encode(self, prepared):
        self.predictions += 1
        return Features({"blur": self.blur(prepared.inputs)}, prepared.image_sizes)

    def tail(self, features):
        grey = features.tensors["blur"][0, 0]
        ys, xs = torch.nonzero(grey > self.threshold, as_tuple=True)
        if len(ys) == 0:
            return [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))]
        box = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
        score = grey[ys, xs].mean().clamp(0, 1)
        return [Detections(box[None], score[None], torch.zeros(1, dtype=torch.int64))]

    def loss(self, images, targets):
        raise AssertionError("evaluation does not train")

    def metric(self):
        return DetectionAccuracy()

    def settings(self):
        return {"name": self.name, "threshold": self.threshold}


@pytest.fixture
def world(tmp_path):
    """Ten images, COCO annotations for eight of them: `world.dataset()`, `world.task()`."""
    return _make_world(tmp_path)


@pytest.fixture(scope="session")
def make_world():
    """`make_world(folder)`: the same in another folder, for fixtures of a module."""
    return _make_world


def _make_world(tmp_path):
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (tmp_path / "images").mkdir()
    for number in range(10):
        width, height = 170 + number, 165
        pixels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8)
        x, y, w, h = 20 + 5 * number, 30, 60 + number, 50
        pixels[y : y + h, x : x + w] = rng.integers(170, 256, (h, w, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{number:02}.png")
        if number < 8:
            images.append({"id": number, "file_name": f"{number:02}.png", "width": width, "height": height})
            box = {"image_id": number, "category_id": 1, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            annotations.append({"id": number + 1, **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "Bright"}]}
    (tmp_path / "instances.json").write_text(json.dumps(content))

    class World:
        folder = tmp_path
        task = BrightTask

        @staticmethod
        def dataset(**options):
            options = {"unlabelled": "keep", **options}
            return COCODataset(tmp_path / "images", tmp_path / "instances.json", **options)

    return World


@pytest.fixture
def targets():
    def make(boxes, labels):
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return BoxTarget(
            boxes, torch.tensor(labels, dtype=torch.int64), torch.zeros(len(boxes), dtype=torch.bool), area
        )

    return make


@pytest.fixture
def pool():
    with CodecPool(workers=1) as pool:
        yield pool


@pytest.fixture
def build(world, pool, tmp_path):
    def build(folder="run", codecs=None, dataset=None, task=None, preprocessor=None, **options):
        task = task or world.task()
        codecs = codecs or {
            "jpeg": [JPEGCodec(quality=1), JPEGCodec(quality=80)],
            "webp": [WebPCodec(quality=30)],
        }
        systems = [
            ImagePipeline(name, codec, task, preprocessor=preprocessor)
            for name, versions in codecs.items()
            for codec in versions
        ]
        options = {"examples": 2, "pool": pool, **options}
        return Evaluation(
            "test", task, dataset or world.dataset(), systems, folder=tmp_path / folder, **options
        )

    return build
