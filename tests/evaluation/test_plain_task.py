"""A task of predict, metric and settings alone: all that evaluation needs, and no more than it offers."""

import pytest
import torch

from vcm.codecs import BPGCodec, JPEGCodec, SlimmableFeatureCodec
from vcm.encoding.encoder import ImageEncoder
from vcm.encoding.reader import Importance
from vcm.encoding.search import ImageSearch
from vcm.errors import ArgumentError
from vcm.evaluation.evaluate import Evaluation
from vcm.evaluation.features import FeaturePipeline
from vcm.evaluation.labels import pseudo_labels
from vcm.evaluation.pipelines import ImagePipeline, predict
from vcm.metrics.detection import DetectionAccuracy
from vcm.modules.supervision import TaskSupervision
from vcm.nn.slimmable import FeatureMap, SlimmableFactorized
from vcm.tasks import Task
from vcm.tasks.distance import FeatureDistance
from vcm.types import Detections


class Threshold(Task):
    """No network at all: one box around what is bright."""

    kind = "detection"
    name = "threshold"
    categories = ("bright", "dark")

    def predict(self, images):
        (image,) = images
        ys, xs = torch.nonzero(image.mean(dim=0) > 0.85, as_tuple=True)
        if len(ys) == 0:
            return [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))]
        box = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
        return [Detections(box[None], torch.ones(1), torch.zeros(1, dtype=torch.int64))]

    def metric(self):
        return DetectionAccuracy()

    def settings(self):
        return {"name": self.name, "threshold": 0.85}

    def reader_size(self, height, width):
        return max(1, height // 2), max(1, width // 2)


def test_it_is_evaluated(world, pool, tmp_path):
    task = Threshold()
    assert task.device == torch.device("cpu")
    systems = [
        ImagePipeline("jpeg", JPEGCodec(quality=1), task),
        ImagePipeline("jpeg", JPEGCodec(quality=95), task),
        ImagePipeline("jpeg_at_reader", JPEGCodec(quality=95), task, at_reader=True),
    ]
    dataset = world.dataset()
    results = Evaluation(
        "plain", task, dataset, systems, folder=tmp_path / "run", pool=pool, examples=0
    ).run()
    low, high, small = (point for point in results.points if point.labels == "pseudo")
    assert results.originals["pseudo"]["map"] == 1
    assert low.psnr < high.psnr
    assert small.bpp < high.bpp
    codec = JPEGCodec(quality=95)
    images = [dataset.image(index) for index in range(10)]
    streams = [codec.encode(image) for image in images]
    assert high.num_bytes == sum(map(len, streams))
    metric = task.metric()
    for image, stream in zip(images, streams, strict=True):
        ((found,), (true,)) = (task.predict([x.float() / 255]) for x in (codec.decode(stream), image))
        metric.update([found], pseudo_labels({"": true}, 0.3).targets.values())
    assert high.accuracy["map"] == pytest.approx(float(metric.compute()["map"]))


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"kind": "colour"}, r"Threshold\.kind must be detection or classification; got 'colour'"),
        ({"name": 3}, r"Threshold\.name must be a string"),
        ({"categories": "ab"}, r"Threshold\.categories must be a tuple of class names"),
        ({"settings": lambda self: {"x": {1}}}, r"Threshold\.settings\(\) must be plain JSON values"),
    ],
)
def test_a_faulty_task_is_told_before_anything_runs(attributes, said, world, pool, tmp_path):
    faulty = type("Threshold", (Threshold,), attributes)()
    systems = [ImagePipeline("jpeg", JPEGCodec(quality=5), faulty)]
    with pytest.raises(ArgumentError, match=said):
        Evaluation("plain", faulty, world.dataset(), systems, folder=tmp_path / "run", pool=pool)


@pytest.mark.parametrize("found", [[], [3], [None, None]])
def test_what_is_no_prediction_is_told(found):
    faulty = type("Faulty", (Threshold,), {"predict": lambda self, images: found})()
    with pytest.raises(ArgumentError, match=r"Faulty\.predict must be one Detections per image"):
        predict(faulty, torch.zeros(3, 8, 8, dtype=torch.uint8))


def test_a_class_of_0_1_is_told_what_to_inherit_from():
    with pytest.raises(TypeError, match=r"Old defines tail, so it must inherit from vcm\.tasks\.SplitTask"):
        type("Old", (Task,), {"tail": lambda self, features: []})


def network():
    features = {"detection": FeatureMap(1, 1)}
    return SlimmableFactorized({"detection": 2, "reconstruction": 3}, features=features)


@pytest.mark.parametrize(
    "build",
    [
        lambda task: ImageEncoder(BPGCodec(40), task, importance=Importance()),
        lambda task: ImageEncoder(BPGCodec(40), task, search=ImageSearch(1)),
        lambda task: Importance(task=task),
        lambda task: ImageSearch(1, task=task),
        lambda task: FeaturePipeline("features", SlimmableFeatureCodec(model=network()), task),
        lambda task: FeatureDistance(task, None, 0.3),
        lambda task: TaskSupervision(task, "pseudo", 0.3),
    ],
)
def test_what_needs_features_or_gradients_says_so(build):
    with pytest.raises(ArgumentError, match=r"must be a vcm\.tasks\.SplitTask, because .* got '?Threshold"):
        build(Threshold())


def test_importance_of_another_network_serves_a_plain_task(world):
    offsets = Importance(task=world.task()).offsets(torch.zeros(3, 64, 64, dtype=torch.uint8), Threshold())
    assert offsets.shape == (2, 2)
    with pytest.raises(ArgumentError, match=r"task must be a vcm\.tasks\.SplitTask"):
        Importance().offsets(torch.zeros(3, 64, 64, dtype=torch.uint8), Threshold())
