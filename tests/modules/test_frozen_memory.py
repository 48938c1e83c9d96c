"""What frozen networks compute, kept for inputs that come again."""

import torch

from vcm.modules.metrics import FeatureMetrics, Memory
from vcm.nn.slimmable.types import CodecOutput
from vcm.tasks import YOLOTask
from vcm.tasks.distance import HEADS, FeatureDistance
from vcm.types import Features


def filled(count, values=25):
    return [torch.full((3, 2, 2), float(number)) for number in range(count)], torch.zeros(values)


def test_an_image_is_computed_once_however_it_comes():
    memory, calls = Memory(), []
    image = torch.rand(3, 4, 4)
    for again in (image, image.clone(), image.to(memory_format=torch.contiguous_format), image[None][0]):
        assert memory(again, lambda: calls.append(1) or [torch.ones(2)])[0].sum() == 2
    assert len(calls) == 1
    for other in (image + 1e-6, image.bfloat16(), image.reshape(4, 3, 4)):
        memory(other, lambda: calls.append(1) or [])
    memory(image, lambda: calls.append(1) or [], "a name")
    assert len(calls) == 5


def test_the_oldest_use_is_dropped_and_bytes_are_bounded():
    images, value = filled(4)
    memory = Memory(max_bytes=300)
    for image in images[:3]:
        memory(image, lambda: {"a": (value, Features({"b": value[:0]}, ()))})
    memory(images[0], lambda: None)
    memory(images[3], lambda: value)
    assert memory.num_bytes == 300
    calls = []
    memory(images[0], lambda: calls.append(0))
    memory(images[1], lambda: calls.append(1))
    assert calls == [1]


def test_a_value_that_is_too_large_is_not_kept():
    (image,), value = filled(1, values=100)
    memory, calls = Memory(max_bytes=300), []
    for _ in range(2):
        memory(image, lambda: calls.append(1) or value)
    assert (len(calls), memory.num_bytes) == (2, 0)


def test_validation_runs_the_frozen_network_on_an_original_once():
    torch.manual_seed(0)
    task = YOLOTask("yolov3", None, input_size=64, cut="layer0", score_threshold=0.0, max_detections=3)
    distance = FeatureDistance(task, ["layer15", HEADS], 0.3)
    figures, runs = FeatureMetrics("detection", distance, 1.0, 0.0), []

    class Network:
        stride = 16

        def __call__(self, x, name):
            target = task.network.layers[0](x)
            return CodecOutput(0.9 * target, {"y": torch.full((1, 8), 0.5)})

    prepare = task.prepare
    task.prepare = lambda images: runs.append(1) or prepare(images)
    images, found = [torch.rand(3, 40, 48) for _ in range(2)], []
    for _ in range(3):
        figures.reset()
        with torch.inference_mode():
            for image in images:
                figures.add(Network(), image)
        values = figures.compute()
        found.append({name: float(values[name]) for name in ("bpp", "loss", "feature_error", "map")})
    assert len(runs) == 2
    assert found[0] == found[1] == found[2]
    fresh = FeatureMetrics("detection", distance, 1.0, 0.0)
    with torch.inference_mode():
        for image in images:
            fresh.add(Network(), image)
    assert float(fresh.compute()["feature_error"]) == found[0]["feature_error"] > 0
