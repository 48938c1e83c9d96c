from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.ops import FrozenBatchNorm2d

from vcm.categories import COCO_CATEGORIES
from vcm.errors import ArgumentError, WeightsError
from vcm.tasks import TorchvisionDetectionTask
from vcm.types import BoxTarget, Detections

BUILDERS = {
    "fcos": "fcos_resnet50_fpn",
    "retinanet": "retinanet_resnet50_fpn",
    "faster_rcnn": "fasterrcnn_resnet50_fpn",
    "mask_rcnn": "maskrcnn_resnet50_fpn",
}
SIZES = {"min_size": 96, "max_size": 160}
THRESHOLDS = {"fcos": 0.05, "retinanet": 0.009, "faster_rcnn": 0.012, "mask_rcnn": 0.012}
THRESHOLD_ARGUMENTS = {"fcos": "score_thresh", "retinanet": "score_thresh"}


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, 60, 90, generator=generator), torch.rand(3, 120, 64, generator=generator)]


def targets() -> list[BoxTarget]:
    boxes = torch.tensor(
        [[5.0, 8, 40, 50], [-9, 10, 30, 300], [70, 7, 70, 9], [95, 5, 99, 9], [1, 1, 50, 50]]
    )
    crowd = torch.tensor([False, False, False, False, True])
    none = (
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        torch.zeros(0, dtype=torch.bool),
        torch.zeros(0),
    )
    return [BoxTarget(boxes, torch.tensor([0, 79, 1, 2, 3]), crowd, torch.ones(5)), BoxTarget(*none)]


def random_state(architecture: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    network = get_model(BUILDERS[architecture], weights=None, weights_backbone=None)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.constant_(module.weight, 0.3 if name.endswith("bn3") else 1.0)
    state: dict[str, Tensor] = network.state_dict()
    return state


@pytest.fixture(params=list(BUILDERS))
def pair(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[TorchvisionDetectionTask, Any]:
    """A task from a file, and torchvision's own network from its enum, given that file's tensors."""
    architecture = request.param
    state = random_state(architecture)
    torch.save(state, tmp_path / "weights.pth")
    threshold = THRESHOLDS[architecture]
    task = TorchvisionDetectionTask(
        architecture, tmp_path / "weights.pth", score_threshold=threshold, **SIZES
    )
    enum = get_model_weights(BUILDERS[architecture])
    monkeypatch.setattr(enum, "get_state_dict", lambda *_, **__: dict(state))
    argument = THRESHOLD_ARGUMENTS.get(architecture, "box_score_thresh")
    options = {argument: threshold, **SIZES}
    return task, get_model(BUILDERS[architecture], weights="COCO_V1", **options).eval()


def own_labels(task: TorchvisionDetectionTask, found: dict[str, Tensor]) -> Detections:
    """torchvision's labels by name to COCO's 80."""
    names = get_model_weights(BUILDERS[task.name]).COCO_V1.meta["categories"]
    keep = [i for i, label in enumerate(found["labels"].tolist()) if names[label] in COCO_CATEGORIES]
    labels = torch.tensor([COCO_CATEGORIES.index(names[found["labels"][i]]) for i in keep])
    return Detections(found["boxes"][keep], found["scores"][keep], labels)


def test_equals_torchvisions_own_network(pair: tuple[TorchvisionDetectionTask, Any]) -> None:
    """Predictions, every cut, and the training loss, against the network that torchvision builds itself."""
    task, network = pair
    network.to(memory_format=torch.channels_last)  # as tasks are: sums come in another order
    with torch.no_grad():
        expected = [own_labels(task, found) for found in network(images())]
    assert all(len(found.scores) >= 5 for found in expected)
    uncut = task.predict(images())
    for ours, theirs in zip(uncut, expected, strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        torch.testing.assert_close(ours.scores, theirs.scores)
        torch.testing.assert_close(ours.boxes, theirs.boxes)

    assert task.cuts == ("stem", "layer1", "layer2", "layer3", "layer4", "fpn")
    assert len(task.features(images()).tensors) == 1  # the default cut
    for cut in task.cuts:
        task.cut = cut
        with torch.no_grad():
            features = task.features(images())
        assert cut in (next(iter(features.tensors)), "fpn")
        assert features.image_sizes == ((60, 90), (120, 64))
        with torch.no_grad():
            prepared = task.encode(task.prepare(images()))
        for name, tensor in prepared.tensors.items():
            torch.testing.assert_close(tensor, features.tensors[name], atol=1e-3, rtol=1e-3)
        for ours, theirs in zip(task.tail(features), uncut, strict=True):
            assert torch.equal(ours.boxes, theirs.boxes), cut
            assert torch.equal(ours.scores, theirs.scores), cut
            assert torch.equal(ours.labels, theirs.labels), cut

    network.train()
    network.transform.eval()  # in training it draws a size, from the generator that the samplers draw from
    if task.name == "mask_rcnn":
        network.roi_heads.mask_roi_pool = None
    clipped = [
        {"boxes": torch.tensor([[5.0, 8, 40, 50], [0, 10, 30, 60]]), "labels": torch.tensor([1, 90])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    torch.manual_seed(1)
    expected_loss = sum(network(images(), clipped).values())
    inputs = [image.requires_grad_() for image in images()]
    torch.manual_seed(1)
    loss = task.loss(inputs, targets())
    torch.testing.assert_close(loss, expected_loss)
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    loss.backward()
    assert inputs[0].grad is not None
    assert inputs[0].grad.isfinite().all()
    assert inputs[0].grad.abs().sum() > 0
    assert not any(module.training for module in task.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())
    assert all(parameter.grad is None for parameter in task.parameters())

    thin = [torch.rand(3, 1, 1), torch.rand(3, 1, 5000), torch.rand(3, 5000, 1)]
    for narrow in thin:
        for found in task.predict([narrow]):
            assert (found.boxes >= 0).all()
            assert (found.boxes[:, 0::2] <= narrow.shape[2]).all()
            assert (found.boxes[:, 1::2] <= narrow.shape[1]).all()


def test_needed_tensors_follow_the_pyramid() -> None:
    task = TorchvisionDetectionTask("fcos", None, cut="layer4", **SIZES)
    assert list(task.features(images()).tensors) == ["layer4", "layer2", "layer3"]
    features = task.features(images())
    del features.tensors["layer2"]
    with pytest.raises(
        ArgumentError, match="needed after the cut: layer4, layer2, layer3; got 'layer4, layer3'"
    ):
        task.tail(features)
    task.cut = "fpn"
    assert list(task.features(images()).tensors) == ["0", "1", "2", "p6", "p7"]


def test_own_categories(tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = TorchvisionDetectionTask(
        "retinanet", None, categories=["ship", "dock"], score_threshold=0.0, **SIZES
    )
    (found,) = task.predict(images()[:1])
    assert set(found.labels.tolist()) == {0, 1}
    target = BoxTarget(
        torch.tensor([[5.0, 5, 40, 40]]), torch.tensor([2]), torch.tensor([False]), torch.ones(1)
    )
    with pytest.raises(ArgumentError, match=r"labels must be in \[0, 1\]"):
        task.loss(images()[:1], [target])


def test_settings_are_json_and_thresholds_the_networks_own() -> None:
    for architecture, threshold in (("fcos", 0.2), ("faster_rcnn", 0.05)):
        settings = json.loads(json.dumps(TorchvisionDetectionTask(architecture, None).settings()))
        own = get_model(BUILDERS[architecture], weights=None, weights_backbone=None)
        assert settings["score_threshold"] == threshold
        assert threshold == (own.score_thresh if architecture == "fcos" else own.roi_heads.score_thresh)
        assert (settings["name"], settings["min_size"], settings["max_size"]) == (architecture, 800, 1333)


def test_bad_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in (
        ({"architecture": "ssd"}, "architecture must be one of fcos, .*; got 'ssd'"),
        ({"cut": "layer5"}, "cut must be one of stem, .*, fpn; got 'layer5'"),
        ({"min_size": 2000}, r"min_size must be in \[1, max_size=1333\] pixels"),
        ({"score_threshold": -1.0}, "score_threshold must be a number from 0 to 1"),
    ):
        with pytest.raises(ArgumentError, match=message):
            TorchvisionDetectionTask(**{"architecture": "fcos", "weights": None, **options})
    torch.save(random_state("retinanet"), tmp_path / "retinanet.pth")
    with pytest.raises(WeightsError, match="does not match the network"):
        TorchvisionDetectionTask("faster_rcnn", tmp_path / "retinanet.pth")
    with pytest.raises(WeightsError, match="one of COCO_V1, or None"):
        TorchvisionDetectionTask("fcos", "COCO_V7")

    def offline(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(WeightsError, match=r"COCO_V1 could not be downloaded: .*no route.* pass its path"):
        TorchvisionDetectionTask("fcos", "COCO_V1")


def test_normalization_is_frozen_as_published() -> None:
    """COCO_V1 of all but FCOS was trained with an epsilon of 0, which torchvision puts back after loading."""
    for architecture, eps in (("fcos", 1e-5), ("mask_rcnn", 0.0)):
        task = TorchvisionDetectionTask(architecture, None)
        layers = [m for m in task.modules() if isinstance(m, FrozenBatchNorm2d)]
        assert len(layers) == 53
        assert {layer.eps for layer in layers} == {eps}
