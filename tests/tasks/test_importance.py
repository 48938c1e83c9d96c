"""Importance of pixels: against its definition, against brute force, for every kind of task."""

import pytest
import torch
from torch.func import jacrev

from vcm.errors import ArgumentError, WeightsError
from vcm.losses.outputs import class_divergence
from vcm.tasks import ClassificationTask, SplitTask, TorchvisionDetectionTask, YOLOTask
from vcm.tasks.importance import class_directions, diagonal_directions


def yolo(**options):
    torch.manual_seed(1)
    return YOLOTask("yolov3", None, **{"input_size": 64, **options})


def torchvision(architecture):
    torch.manual_seed(1)
    return TorchvisionDetectionTask(architecture, None, min_size=64, max_size=64)


def mobilenet(kind=ClassificationTask):
    torch.manual_seed(1)
    task = kind("mobilenet_v2", None, resize_size=64, crop_size=56)
    with torch.no_grad():
        task.head[-1][-1].weight.mul_(1e9)  # random features are as small as 1e-9
    return task


class Headless(ClassificationTask):
    outputs = SplitTask.outputs
    output_divergence = SplitTask.output_divergence


MAKERS = {
    "yolov3": yolo,
    "retinanet": lambda: torchvision("retinanet"),
    "fcos": lambda: torchvision("fcos"),
    "faster_rcnn": lambda: torchvision("faster_rcnn"),
    "mask_rcnn": lambda: torchvision("mask_rcnn"),
    "mobilenet_v2": mobilenet,
    "headless": lambda: mobilenet(Headless),
}


@pytest.mark.parametrize("name", MAKERS)
def test_is_a_deterministic_map_in_the_images_own_pixels(name):
    task = MAKERS[name]()
    image = torch.rand(3, 50, 90, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    importance = task.importance(image)
    assert torch.equal(state, torch.random.get_rng_state())
    assert importance.shape == (50, 90)
    assert importance.dtype == torch.float32
    assert not importance.requires_grad
    assert (importance >= 0).all()
    assert importance.max() > 0
    assert torch.equal(importance, task.importance(image))
    with torch.no_grad():
        assert torch.equal(importance, task.importance(image))
    assert not torch.equal(importance, task.importance(image, seed=1))
    assert task.importance(torch.rand(3, 1, 1)).shape == (1, 1)


def test_pixels_that_a_classifier_does_not_see_do_not_count():
    importance = mobilenet().importance(torch.rand(3, 64, 200))
    assert importance[:, :60].max() == 0
    assert importance[:, 140:].max() == 0
    assert importance[:, 80:120].max() > 0


def divergence_of(task, image, outputs):
    return task.output_divergence(task.outputs(task.features([image])), outputs)


@pytest.mark.parametrize("name", ["yolov3", "faster_rcnn", "mobilenet_v2"])
def test_predicts_the_divergence_that_noise_adds(name):
    """½ Σ importance · variance, to second order: many directions, small noise in half of the image."""
    task = MAKERS[name]()
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 64, 64, generator=generator)
    importance = task.importance(image, directions=64)
    with torch.no_grad():
        outputs = task.outputs(task.features([image]))
        for columns in (slice(0, 32), slice(32, 64)):
            found = []
            for _ in range(48):
                noise = torch.zeros(3, 64, 64)
                noise[:, :, columns] = 2e-3 * torch.randn(3, 64, 32, generator=generator)
                found.append(divergence_of(task, image + noise, outputs).item())
            predicted = 0.5 * (2e-3) ** 2 * importance[:, columns].sum().item()
            assert sum(found) / len(found) == pytest.approx(predicted, rel=0.35)


def test_default_directions_have_the_hessian_as_covariance():
    true = {"a": torch.randn(1, 5), "b": torch.randn(1, 3)}
    weights = torch.tensor([1.0, 4.0, 0.0])

    def divergence(found, true):
        q, p = found["a"], true["a"]
        kl = torch.nn.functional.binary_cross_entropy_with_logits(q, p.sigmoid(), reduction="none")
        return kl.sum(1) + (weights * (found["b"] - true["b"]).square()).sum(1)

    drawn = diagonal_directions(divergence, true, 20_000, torch.Generator().manual_seed(0))
    p = true["a"].sigmoid()[0]
    for name, variance in (("a", p * (1 - p)), ("b", 2 * weights)):
        samples = torch.stack([direction[name][0] for direction in drawn])
        torch.testing.assert_close(samples.var(dim=0), variance, rtol=0.06, atol=1e-6)


def test_class_directions_have_the_fisher_information_as_covariance():
    logits = torch.randn(1, 6)
    samples = torch.cat(class_directions(logits, 50_000, torch.Generator().manual_seed(0)))
    p = logits.softmax(dim=1)[0]
    fisher = torch.diag(p) - torch.outer(p, p)
    torch.testing.assert_close(samples.T.cov(), fisher, rtol=0, atol=0.01)

    def slope(found):
        return torch.func.grad(lambda x: class_divergence(x, logits).sum())(found)

    torch.testing.assert_close(jacrev(slope)(logits)[0, :, 0], fisher, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (torch.rand(3, 8, 8), {"directions": 0}, "directions must be a whole number from 1; got 0"),
        (torch.rand(3, 8, 8), {"seed": 0.5}, "seed must be a 64-bit whole number; got 0.5"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), {}, r"image must be a float \(3, H, W\) RGB tensor"),
        (torch.rand(1, 3, 8, 8), {}, r"image must be a float \(3, H, W\)"),
        (torch.full((3, 8, 8), float("nan")), {}, "images must be finite"),
    ],
)
def test_bad_arguments(image, options, message):
    with pytest.raises(ArgumentError, match=message):
        yolo().importance(image, **options)


def test_works_where_gradients_are_off():
    task, image = yolo(), torch.rand(3, 40, 48)
    expected = task.importance(image)
    with torch.inference_mode():
        assert torch.equal(task.importance(image.clone()), expected)
    with torch.no_grad():
        assert torch.equal(task.importance(image), expected)


def test_damaged_weights_are_told():
    task = mobilenet()
    with torch.no_grad():
        task.head[-1][-1].weight.fill_(float("nan"))
    with pytest.raises(WeightsError, match="mobilenet_v2 has NaN or infinite gradients"):
        task.importance(torch.rand(3, 64, 64))


def test_finds_what_the_detector_depends_on(asset_path, coco_images):
    """Noise in the most important blocks of a photo costs the detector more than in the least important."""
    from vcm.data import read_image

    folder = "yolov3-tiny"
    task = YOLOTask(asset_path(folder, "yolov3-tiny.cfg"), asset_path(folder, "yolov3-tiny.weights"))
    photo = read_image(coco_images[0]).float() / 255
    image = task.resample(photo, task.reader_size(*photo.shape[1:]))
    block = 32
    importance = torch.nn.functional.avg_pool2d(task.importance(image)[None], block)[0]
    order = importance.flatten().argsort()
    noise = 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = task.outputs(task.features([image]))
        added = []
        for index in order[:: len(order) // 24].tolist():
            row, column = (block * place for place in divmod(index, importance.shape[1]))
            changed = image.clone()
            changed[:, row : row + block, column : column + block] += noise[
                :, row : row + block, column : column + block
            ]
            added.append(divergence_of(task, changed.clamp(0, 1), outputs).item())
    ranks = torch.tensor(added).argsort().argsort().double()
    correlation = torch.corrcoef(torch.stack([ranks, torch.arange(len(added)).double()]))[0, 1]
    assert correlation > 0.8, correlation
