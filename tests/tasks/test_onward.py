"""Running a task's network on from its cut to a later one."""

from pathlib import Path

import pytest
import torch

from vcm.errors import ArgumentError
from vcm.tasks import ClassificationTask, Task, TorchvisionDetectionTask, YOLOTask


def yolo(tmp_path: Path, cut: str) -> Task:
    torch.manual_seed(1)
    return YOLOTask("yolov3", names=[str(number) for number in range(80)], cut=cut, input_size=64)


def fcos(tmp_path: Path, cut: str) -> Task:
    torch.manual_seed(1)
    return TorchvisionDetectionTask("fcos", None, cut=cut, min_size=64, max_size=64)


def mobilenet(tmp_path: Path, cut: str) -> Task:
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
    with pytest.raises(ArgumentError, match=f"cut must be one from {cut} on"):
        task.onward(features, before)
    with pytest.raises(ArgumentError, match=f"cut must be one from {cut} on"):
        task.onward(features, "nowhere")
