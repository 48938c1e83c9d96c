"""A learned codec's features in an evaluation, beside images."""

import io
import json

import pytest
import torch

from vcm.codecs import CodecPool, Failure, JPEGCodec, LearnedCodec, SlimmableFeatureCodec
from vcm.codecs.learned.container import read_stream
from vcm.encoding.features import check_fit
from vcm.errors import ArgumentError
from vcm.evaluation.evaluate import Evaluation
from vcm.evaluation.features import FeaturePipeline
from vcm.evaluation.pipelines import Answer, ImagePipeline
from vcm.evaluation.report import build_report
from vcm.nn.slimmable import FeatureMap, SlimmableFactorized
from vcm.tasks import ClassificationTask, TorchvisionDetectionTask, YOLOTask
from vcm.types import Detections, Prepared

TINY_CFG = """[net]
width=96
height=96
channels=3
[convolutional]
filters=4
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=6
size=3
stride=4
pad=1
activation=leaky
[convolutional]
filters=14
size=1
stride=1
activation=linear
[yolo]
mask=0,1
anchors=20,20, 40,40
classes=2
num=2
"""


def network(features, seed=0):
    torch.manual_seed(seed)
    model = SlimmableFactorized({"detection": 4, "reconstruction": 6}, features={"detection": features})
    with torch.no_grad():
        for conv in model.g_a.convs:
            conv.weight *= 4
    return model.eval()


class Lossless(SlimmableFeatureCodec):
    """Sends the task's input as it is, and decodes to the features that the task itself would have."""

    def __init__(self, features, task):
        super().__init__(model=network(features))
        self.of = task

    def encode(self, x, size):
        buffer = io.BytesIO()
        torch.save((x, size), buffer)
        return buffer.getvalue()

    def decode(self, data):
        x, size = torch.load(io.BytesIO(data), weights_only=True)
        with torch.no_grad():
            return next(iter(self.of.encode(Prepared(x, (size,))).tensors.values())), size


def yolo(tmp_path):
    (tmp_path / "tiny.cfg").write_text(TINY_CFG)
    torch.manual_seed(1)
    return YOLOTask(tmp_path / "tiny.cfg", names=["a", "b"], cut="layer1"), FeatureMap(6, 8)


def fcos(tmp_path):
    torch.manual_seed(1)
    task = TorchvisionDetectionTask("fcos", None, min_size=64, max_size=96, cut="layer2")
    return task, FeatureMap(512, 8)


def classifier(tmp_path):
    torch.manual_seed(1)
    task = ClassificationTask("mobilenet_v2", None, categories=["a", "b"], resize_size=64, crop_size=64)
    return task, FeatureMap(32, 8)


@pytest.mark.parametrize("make", [yolo, fcos, classifier])
def test_undamaged_features_give_the_tasks_own_predictions(make, tmp_path):
    """Letterboxes, resizing and padding are undone by the tail, from the image's size alone."""
    task, features = make(tmp_path)
    system = FeaturePipeline("features", Lossless(features, task), task)
    images = [(torch.rand(3, *size) * 255).to(torch.uint8) for size in ((60, 90), (120, 64), (1, 300))]
    with CodecPool(workers=2) as pool:
        answers = system.run(images, pool)
    for image, answer in zip(images, answers, strict=True):
        assert isinstance(answer, Answer), answer
        assert answer.image is None
        (expected,) = task.predict([image.float() / 255])
        if isinstance(expected, Detections):
            assert len(answer.prediction.boxes) == len(expected.boxes)
            torch.testing.assert_close(answer.prediction.boxes, expected.boxes, atol=1e-2, rtol=1e-4)
        else:
            torch.testing.assert_close(answer.prediction.logits, expected.logits, atol=1e-3, rtol=1e-3)


def test_it_stands_beside_images_in_one_evaluation(world, tmp_path):
    task, model = world.task(), network(FeatureMap(1, 1))
    systems = [
        ImagePipeline("jpeg", JPEGCodec(quality=50), task),
        ImagePipeline("learned", LearnedCodec(model=model), task),
        FeaturePipeline("features", SlimmableFeatureCodec(model=model), task),
    ]
    json.dumps([system.settings() for system in systems])
    with CodecPool(workers=2) as pool:
        results = Evaluation("test", task, world.dataset(), systems, folder=tmp_path / "run", pool=pool).run()
    assert results.complete
    points = {point.system: point for point in results.points}
    assert points["features"].psnr is None
    assert points["learned"].psnr is not None
    image = world.dataset()[0].image
    data = SlimmableFeatureCodec(model=model).encode(
        task.prepare([image / 255]).inputs, tuple(image.shape[1:])
    )
    assert read_stream(data).header.size == tuple(image.shape[1:])
    assert 0 < points["features"].bpp < points["learned"].bpp
    assert (build_report([tmp_path / "run"]).read_text()).count("Learned features") >= 2


def test_a_damaged_stream_is_one_images_fault(world):
    codec = SlimmableFeatureCodec(model=network(FeatureMap(1, 1)))
    system = FeaturePipeline("features", codec, world.task())
    plain = codec.encode
    codec.encode = lambda x, size: plain(x, size)[:-1] if size == (40, 50) else plain(x, size)
    images = [(torch.rand(3, height, 50) * 255).to(torch.uint8) for height in (30, 40)]
    with CodecPool(workers=1) as pool:
        good, bad = system.run(images, pool)
    assert isinstance(good, Answer)
    assert isinstance(bad, Failure)
    assert "decode failed: BitstreamError: the stream is cut short" in str(bad)


def test_a_task_with_other_features_is_told(tmp_path, world):
    task, features = yolo(tmp_path)
    check_fit(SlimmableFeatureCodec(model=network(features)), task)
    for other in (FeatureMap(5, 8), FeatureMap(6, 4)):
        with pytest.raises(
            ArgumentError, match=r"task\.cut must be .*got 'layer1 of tiny, with 6 channels at stride 8"
        ):
            FeaturePipeline("features", SlimmableFeatureCodec(model=network(other)), task)


def test_inputs_need_not_be_multiples_of_the_stride():
    """A classifier's crop of 100 pixels has 13 places at stride 8."""
    torch.manual_seed(1)
    task = ClassificationTask("mobilenet_v2", None, categories=["a", "b"], resize_size=100, crop_size=100)
    system = FeaturePipeline("features", SlimmableFeatureCodec(model=network(FeatureMap(32, 8))), task)
    image = (torch.rand(3, 90, 120) * 255).to(torch.uint8)
    with CodecPool(workers=1) as pool:
        (answer,) = system.run([image], pool)
    assert isinstance(answer, Answer), answer
