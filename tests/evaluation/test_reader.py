"""Encoders that know their reader: its size, and QPs from importance, in `ImagePipeline`."""

import inspect
import json

import pytest
import torch
import torch.nn.functional as F

from thin import thin_yolov3
from vcm.codecs import BPGCodec, Codec, CodecPool, Failure, JPEGCodec, qp_offsets
from vcm.encoding.reader import Importance, scale_prediction, scale_to_reader
from vcm.errors import ArgumentError, CodecError
from vcm.evaluation.pipelines import Answer, ImagePipeline, predict
from vcm.tasks import ClassificationTask, TorchvisionDetectionTask, YOLOTask
from vcm.types import ClassScores, Detections

SIZES = [(150, 200), (200, 150), (96, 96), (1, 1), (40, 30), (1, 300), (300, 1), (97, 99)]


@pytest.fixture(scope="module")
def yolo(tmp_path_factory):
    cfg = thin_yolov3(tmp_path_factory.mktemp("yolo"))
    torch.manual_seed(1)
    return YOLOTask(cfg, None, input_size=96, score_threshold=0.0, max_detections=5)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)

    def smooth(height, width):
        noise = torch.rand(1, 3, -(-height // 8), -(-width // 8), generator=generator)
        scaled = F.interpolate(noise, size=(height, width), mode="bilinear")[0]
        return (255 * scaled).to(torch.uint8)

    return [smooth(*size) for size in SIZES]


class Raw(Codec):
    """The pixels themselves; no image shorter than `shortest`."""

    name, title, suffix, quality_scale, quality = "raw", "Raw", ".raw", JPEGCodec.quality_scale, 50

    def __init__(self, shortest=1):
        self.shortest = shortest

    def encode(self, image):
        if min(image.shape[1:]) < self.shortest:
            raise CodecError(f"sides must be at least {self.shortest} pixels.")
        return repr(tuple(image.shape)).encode() + b"|" + image.numpy().tobytes()

    def decode(self, data):
        shape, _, pixels = data.partition(b"|")
        numbers = [int(part) for part in shape.decode().strip("()").split(",")]
        return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).reshape(numbers)


def answers(system, images):
    with CodecPool(workers=2) as pool:
        return system.run(images, pool)


def test_what_the_reader_reads_is_what_it_would_have_read(yolo, images):
    """Scaled images are not resampled again: but for rounding, the predictions are the originals'."""
    for image, answer in zip(
        images, answers(ImagePipeline("x", Raw(), yolo, at_reader=True), images), strict=True
    ):
        assert isinstance(answer, Answer), answer
        height, width = image.shape[1:]
        size = yolo.reader_size(height, width)
        assert max(size) <= 96
        scaled = scale_to_reader(image, yolo)
        assert tuple(scaled.shape[1:]) == size
        prepared = yolo.prepare([scaled.float() / 255]).inputs
        torch.testing.assert_close(
            prepared, yolo.prepare([image.float() / 255]).inputs, atol=0.51 / 255, rtol=0
        )
        if size == (height, width):
            assert torch.equal(scaled, image)
        assert answer.num_bytes == scaled.numel() + len(repr(tuple(scaled.shape))) + 1
        assert answer.image.shape == image.shape
        assert answer.image.dtype == torch.uint8


def test_boxes_come_back_in_the_originals_coordinates(yolo, images):
    system = ImagePipeline("x", Raw(), yolo, at_reader=True)
    image = images[0]
    (answer,) = answers(system, [image])
    scaled = predict(yolo, scale_to_reader(image, yolo))
    factors = torch.tensor([200 / 96, 150 / 72, 200 / 96, 150 / 72])
    torch.testing.assert_close(answer.prediction.boxes, scaled.boxes * factors)
    assert (answer.prediction.boxes[:, 2] <= 200).all()
    assert (answer.prediction.boxes[:, 3] <= 150).all()
    assert answer.prediction.boxes.max() > 100
    assert torch.equal(answer.prediction.labels, scaled.labels)


def test_predictions_are_scaled_and_clipped():
    found = Detections(torch.tensor([[1.0, 2, 30, 40]]), torch.tensor([0.5]), torch.tensor([3]))
    scaled = scale_prediction(found, (20, 30), (40, 90))
    assert scaled.boxes.tolist() == [[3.0, 4.0, 90.0, 40.0]]
    scores = ClassScores(torch.ones(3))
    assert scale_prediction(scores, (20, 30), (40, 90)) is scores
    assert scale_prediction(found, (20, 30), (20, 30)) is found


@pytest.mark.parametrize("architecture", ["fcos", "faster_rcnn"])
def test_torchvision_reads_at_its_own_size(architecture, images):
    torch.manual_seed(1)
    task = TorchvisionDetectionTask(architecture, None, min_size=64, max_size=100, score_threshold=0.0)
    for image in images:
        height, width = image.shape[1:]
        scaled = scale_to_reader(image, task)
        assert tuple(scaled.shape[1:]) == task.reader_size(height, width)
        if (height, width) == (150, 200):
            assert tuple(scaled.shape[1:]) == (64, 85)
            torch.testing.assert_close(
                task.prepare([scaled.float() / 255]).inputs, task.prepare([image.float() / 255]).inputs,
                atol=0.51 / 255, rtol=0,
            )  # fmt: skip


def test_classifiers_read_at_the_resized_size_before_the_crop(images):
    torch.manual_seed(1)
    task = ClassificationTask("mobilenet_v2", None, resize_size=64, crop_size=56)
    sizes = [tuple(scale_to_reader(image, task).shape[1:]) for image in images]
    assert sizes == [(64, 85), (85, 64), (64, 64), (1, 1), (40, 30), (1, 300), (300, 1), (64, 65)]
    for image in images:
        scaled = scale_to_reader(image, task).float() / 255
        torch.testing.assert_close(
            task.prepare([scaled]).inputs, task.prepare([image.float() / 255]).inputs, atol=0.51 / 255, rtol=0
        )
    assert all(
        isinstance(answer, Answer)
        for answer in answers(ImagePipeline("x", JPEGCodec(50), task, at_reader=True), images)
    )


def test_a_codec_that_takes_no_smaller_image_says_so(yolo, images):
    found = answers(ImagePipeline("x", Raw(shortest=80), yolo, at_reader=True), images[:3])
    assert str(found[0]) == (
        "encode of the image scaled to 72x96 failed: CodecError: sides must be at least 80 pixels."
    )
    assert isinstance(found[1], Failure)
    assert isinstance(found[2], Answer)  # as large as the reader's size


def test_a_preprocessor_comes_after_scaling(yolo, images):
    class Darker:
        name, title = "darker", "Darker"
        seen = ()

        def __call__(self, image):
            self.seen = (*self.seen, tuple(image.shape[1:]))
            return image // 2

        def settings(self):
            return {}

    darker = Darker()
    system = ImagePipeline("darker_raw_at_reader", Raw(), yolo, preprocessor=darker, at_reader=True)
    (answer,) = answers(system, images[:1])
    assert darker.seen == ((72, 96),)
    assert answer.image.max() < 128
    assert system.title == "Darker + Raw at the reader's size"


@pytest.mark.parametrize("at_reader", [False, True])
def test_importance_decides_the_qps(at_reader, yolo, images):
    codec = BPGCodec(37, preset="fast")
    importance = Importance(alpha=2.0, block=16, clip=7)
    system = ImagePipeline("bpg", codec, yolo, at_reader=at_reader, importance=importance)
    for image, answer in zip(images, answers(system, images), strict=True):
        assert isinstance(answer, Answer), answer
        coded = scale_to_reader(image, yolo) if at_reader else image
        offsets = qp_offsets(yolo.importance(coded.float() / 255), alpha=2.0, block=16, clip=7)
        stream = codec.encode(coded, offsets, block=16)
        assert answer.num_bytes == len(stream)
        assert answer.image.shape == image.shape
        if not at_reader:
            assert torch.equal(answer.image, codec.decode(stream))


def test_importance_of_another_task(yolo, images, tmp_path):
    torch.manual_seed(2)
    other = YOLOTask(thin_yolov3(tmp_path), None, input_size=64)
    codec = BPGCodec(37, preset="fast")
    system = ImagePipeline("bpg", codec, yolo, importance=Importance(other, alpha=3.0))
    (answer,) = answers(system, images[:1])
    offsets = qp_offsets(other.importance(images[0].float() / 255), alpha=3.0)
    assert answer.num_bytes == len(codec.encode(images[0], offsets))
    assert system.settings()["importance"]["task"] == other.settings()


def test_settings_of_systems_without_them_are_as_before(yolo):
    codec = BPGCodec(37)
    assert ImagePipeline("bpg", codec, yolo).settings() == {
        "system": "picture", "preprocessor": None, "codec": codec.settings(),
    }  # fmt: skip
    systems = [
        ImagePipeline("bpg", codec, yolo, at_reader=at_reader, importance=importance)
        for at_reader in (False, True)
        for importance in (
            None,
            Importance(),
            Importance(alpha=1.5),
            Importance(block=16),
            Importance(clip=5),
        )
    ]
    keys = [json.dumps(system.settings(), sort_keys=True) for system in systems]
    assert len(set(keys)) == len(keys)


def test_titles_and_other_qualities(yolo):
    codec = BPGCodec(37)

    def system(name, **options):
        return ImagePipeline(name, codec, yolo, **options)

    assert system("bpg_at_reader", at_reader=True).title == "BPG at the reader's size"
    assert system("bpg_importance", importance=Importance()).title == "BPG, importance QP"
    both = system("bpg_importance_at_reader", at_reader=True, importance=Importance(alpha=2))
    assert both.title == "BPG at the reader's size, importance QP"
    assert system("mine", at_reader=True).title == "BPG at the reader's size (mine)"
    other = both.at(30)
    assert (other.quality, other.encoder.at_reader) == (30, True)
    assert other.encoder.importance == both.encoder.importance
    assert other.title == both.title


@pytest.mark.parametrize("codec", [JPEGCodec(50), BPGCodec(chroma="444", lossless=True)])
def test_importance_needs_a_codec_with_qp_offsets(codec, yolo):
    with pytest.raises(
        ArgumentError, match="importance must be null, because this codec takes no QP offsets"
    ):
        ImagePipeline("x", codec, yolo, importance=Importance())


def test_defaults_are_those_of_offsets():
    known = inspect.signature(qp_offsets).parameters
    assert Importance() == Importance(**{name: known[name].default for name in ("alpha", "block", "clip")})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1}, "alpha must be"),
        ({"block": 20}, "block must be one of 16, 32, 64"),
        ({"clip": 1.5}, "clip must be a whole number"),
        (
            {"task": "yolov3"},
            r"importance.task must be a vcm.tasks.SplitTask, because an importance map needs",
        ),
    ],
)
def test_importance_out_of_range(options, message):
    with pytest.raises(ArgumentError, match=message):
        Importance(**options)


def test_a_reader_size_beyond_the_image_is_refused(yolo, images, monkeypatch):
    monkeypatch.setattr(yolo, "reader_size", lambda height, width: (height + 1, width))
    (fault,) = answers(ImagePipeline("x", Raw(), yolo, at_reader=True), images[:1])
    assert "reader_size must be in [(1, 1), (150, 200)], the image's size; got (151, 200)" in str(fault)
