"""Running a task's network on from its cut to a later one."""

from pathlib import Path

import pytest
import torch

from thin import thin_yolov3
from vcm.errors import ArgumentError
from vcm.nn.darknet import IMAGE
from vcm.tasks import ClassificationTask, SplitTask, TorchvisionDetectionTask, YOLOTask
from vcm.tasks.distance import image_distance


def yolo(tmp_path: Path, cut: str) -> SplitTask:
    torch.manual_seed(1)
    names = [str(number) for number in range(80)]
    return YOLOTask(thin_yolov3(tmp_path), names=names, cut=cut, input_size=64)


def fcos(tmp_path: Path, cut: str) -> SplitTask:
    torch.manual_seed(1)
    return TorchvisionDetectionTask("fcos", None, cut=cut, min_size=64, max_size=64)


def mobilenet(tmp_path: Path, cut: str) -> SplitTask:
    torch.manual_seed(1)
    return ClassificationTask("mobilenet_v2", None, cut=cut, resize_size=64, crop_size=64)


@pytest.mark.parametrize(
    ("make", "cut", "later"),
    [
        (yolo, "layer4", "layer15"),
        (yolo, "layer36", "layer61"),  # after which an earlier tensor is needed, too
        (fcos, "stem", "layer3"),
        (fcos, "layer2", "fpn"),
        (mobilenet, "features3", "features6"),
    ],
)
def test_is_what_a_later_cut_gives(make, cut, later, tmp_path):  # type: ignore[no-untyped-def]
    near, far = make(tmp_path, cut), make(tmp_path, later)
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    found = near.onward(near.features(image), later)
    expected = far.features(image)
    assert list(found.tensors) == list(expected.tensors)
    assert found.image_sizes == expected.image_sizes
    for name, tensor in expected.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor)
    sum(tensor.sum() for tensor in found.tensors.values()).backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("make", "cut", "before"),
    [(yolo, "layer4", "layer3"), (fcos, "layer2", "stem"), (mobilenet, "features3", "features2")],
)
def test_stays_or_goes_forward(make, cut, before, tmp_path):  # type: ignore[no-untyped-def]
    task = make(tmp_path, cut)
    features = task.features(torch.rand(1, 3, 64, 64))
    assert torch.equal(task.onward(features, cut).tensors[cut], features.tensors[cut])
    with pytest.raises(ArgumentError, match=f"cut must be {cut} or a later"):
        task.onward(features, before)
    with pytest.raises(ArgumentError, match=f"cut must be {cut} or a later"):
        task.onward(features, "nowhere")


def test_the_deepest_cut_feeds_every_head():
    for cfg, expected in (("yolov3", "layer79"), ("yolov3-spp", None)):
        task = YOLOTask(cfg, None, input_size=64)
        assert expected in (None, task.deepest_cut)
        last = int(task.deepest_cut.removeprefix("layer"))
        heads = task.network.head_layers
        assert last < heads[0]
        image = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            live = task.network.run({IMAGE: image}, 0, last)
            found = task.network.run(live, last + 1, len(task.network) - 1)
            changed = task.network.run({**live, last: live[last] + 1}, last + 1, len(task.network) - 1)
            beyond = task.network.run({IMAGE: image}, 0, last + 1)
            beyond_changed = task.network.run(
                {**beyond, last + 1: beyond[last + 1] + 1}, last + 2, len(task.network) - 1
            )
        assert all(not torch.equal(found[head], changed[head]) for head in heads)
        assert any(torch.equal(found[head], beyond_changed[head]) for head in heads)
    assert ClassificationTask("resnet50", None).deepest_cut == "layer4"


def test_an_images_distance_does_not_depend_on_the_cut(tmp_path):
    torch.manual_seed(0)
    task = YOLOTask(thin_yolov3(tmp_path), None, input_size=64)
    x, found = torch.rand(1, 3, 50, 64), torch.rand(1, 3, 50, 64, requires_grad=True)
    distance = image_distance(task)(x)(found)
    task.cut = "layer1"
    assert torch.equal(image_distance(task)(x)(found), distance)
    assert float(image_distance(task)(x)(x)) == 0
    features = image_distance(task, 2.0)(x)(found) - distance
    outputs = image_distance(task, 0.0)(x)(found)
    torch.testing.assert_close(features + outputs, distance)
    distance.backward()
    assert found.grad.abs().sum() > 0
    classifier = ClassificationTask("resnet50", None, crop_size=64, resize_size=64)
    assert classifier.has_heads
