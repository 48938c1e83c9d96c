"""Raw head outputs of every kind of task, and how far they are apart."""

import pytest
import torch

from thin import thin_yolov3
from vcm.errors import ArgumentError
from vcm.tasks import ClassificationTask, SplitTask, TorchvisionDetectionTask, YOLOTask


def yolo(cut, folder):
    torch.manual_seed(1)
    return YOLOTask(
        thin_yolov3(folder), None, names=[str(number) for number in range(80)], cut=cut, input_size=64
    )


def torchvision(architecture):
    def make(cut, folder):
        torch.manual_seed(1)
        return TorchvisionDetectionTask(architecture, None, cut=cut, min_size=64, max_size=64)

    return make


def mobilenet(cut, folder):
    torch.manual_seed(1)
    task = ClassificationTask("mobilenet_v2", None, cut=cut, resize_size=64, crop_size=64)
    with torch.no_grad():
        task.head[-1][-1].weight.mul_(1e9)  # random features are as small as 1e-9
    return task


MAKERS = {
    "yolov3": (yolo, ("layer4", "layer100")),  # the second, after two heads
    "fcos": (torchvision("fcos"), ("layer2", "fpn")),
    "retinanet": (torchvision("retinanet"), ("layer2", "fpn")),
    "faster_rcnn": (torchvision("faster_rcnn"), ("stem", "layer4")),
    "mask_rcnn": (torchvision("mask_rcnn"), ("layer1", "fpn")),
    "mobilenet_v2": (mobilenet, ("features3", "features18")),
}


@pytest.fixture(scope="module", params=MAKERS)
def tasks(request, tmp_path_factory):
    make, cuts = MAKERS[request.param]
    folder = tmp_path_factory.mktemp("tasks")
    return [make(cut, folder) for cut in cuts]


def test_do_not_depend_on_the_cut_and_lead_back(tasks):
    near, far = tasks
    images = torch.rand(2, 3, 64, 64).requires_grad_(True)
    found, expected = (task.outputs(task.features(images)) for task in tasks)
    assert list(found) == list(expected)
    for name, output in expected.items():
        assert len(output) == 2
        torch.testing.assert_close(found[name], output)
    other = near.outputs(near.features((images + 0.1 * torch.rand(2, 3, 64, 64)).clamp(0, 1)))
    true = {name: output.detach() for name, output in other.items()}
    divergence = near.output_divergence(found, true)
    assert divergence.shape == (2,)
    assert (divergence > 0).all()
    divergence.sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).abs().sum(dim=1) > 0).all()
    torch.testing.assert_close(far.output_divergence(true, true), torch.zeros(2))
    assert near.has_heads


def test_every_output_counts(tasks):
    task = tasks[0]
    outputs = task.outputs(task.features(torch.rand(1, 3, 64, 64)))
    for name, output in outputs.items():
        changed = output + torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
        assert task.output_divergence({**outputs, name: changed}, outputs) > 0, name


def test_an_images_divergence_is_its_own(tasks):
    task = tasks[0]
    images = torch.rand(3, 3, 64, 64)
    true = task.outputs(task.features(images))
    found = task.outputs(task.features(images.flip(0)))
    together = task.output_divergence(found, true)
    torch.testing.assert_close(together[1], torch.tensor(0.0), atol=1e-6, rtol=0)
    alone = task.output_divergence({n: x[:1] for n, x in found.items()}, {n: x[:1] for n, x in true.items()})
    torch.testing.assert_close(together[:1], alone)


def test_outputs_of_another_task_or_size_are_refused(tasks):
    task = tasks[0]
    outputs = task.outputs(task.features(torch.rand(2, 3, 64, 64)))
    with pytest.raises(ArgumentError, match="found must be raw outputs with the names "):
        task.output_divergence({"nothing": torch.zeros(2, 3)}, outputs)
    with pytest.raises(ArgumentError, match="true must be raw outputs with the names "):
        task.output_divergence(outputs, {})
    with pytest.raises(ArgumentError, match="must be of the same shape as true"):
        task.output_divergence({name: output[:1] for name, output in outputs.items()}, outputs)


def test_yolo_outputs_are_its_raw_outputs(tmp_path):
    task = yolo("layer4", tmp_path)
    images = torch.rand(2, 3, 50, 80)
    outputs = task.outputs(task.features(images))
    for found, expected in zip(outputs.values(), task.raw_outputs(images), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_task_without_heads_says_so():
    class Other(ClassificationTask):
        outputs = SplitTask.outputs
        output_divergence = SplitTask.output_divergence

    task = Other("mobilenet_v2", None, resize_size=64, crop_size=64)
    assert not task.has_heads
    features = task.features(torch.rand(1, 3, 64, 64))
    for call in (lambda: task.outputs(features), lambda: task.output_divergence({}, {})):
        with pytest.raises(
            ArgumentError, match="supervision must be features, because mobilenet_v2"
        ) as caught:
            call()
        assert caught.value.argument == "supervision"
