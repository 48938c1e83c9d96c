from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights, get_model
from torchvision.transforms.v2 import functional as transforms

from vcm.errors import ArgumentError, MissingToolError, WeightsError
from vcm.tasks import ClassificationTask
from vcm.types import ClassTarget

ARCHITECTURES = {"resnet50": "resnet50", "resnext50": "resnext50_32x4d", "mobilenet_v2": "mobilenet_v2"}


@pytest.fixture(scope="module")
def photos(coco_images: list[Path]) -> list[Tensor]:
    images = [cv2.imread(str(path))[:, :, ::-1] for path in coco_images[:2]]
    return [torch.from_numpy(np.ascontiguousarray(p)).permute(2, 0, 1) / 255 for p in images]


def random_network(architecture: str, folder: Path) -> tuple[nn.Module, Path]:
    """The library's own network with random weights and running statistics, and a file of them."""
    torch.manual_seed(0)
    if architecture == "resnest50":
        network = timm.create_model("resnest50d", pretrained=False)
    else:
        network = get_model(ARCHITECTURES[architecture], weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(network.state_dict(), folder / "weights.pth")
    return network.eval().to(memory_format=torch.channels_last), folder / "weights.pth"


@pytest.mark.parametrize("architecture", ClassificationTask.architectures)
def test_equals_the_librarys_own_network(architecture: str, photos: list[Tensor], tmp_path: Path) -> None:
    network, weights = random_network(architecture, tmp_path)
    task = ClassificationTask(architecture, weights)
    # timm's settings for ResNeSt-50 are the same: shorter side 256, bilinear, central 224.
    preprocess = ResNet50_Weights.IMAGENET1K_V1.transforms()
    with torch.no_grad():
        expected = network(torch.stack([preprocess(photo) for photo in photos]))
    ours = torch.stack([scores.logits for scores in task.predict(photos)])
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("architecture", ClassificationTask.architectures)
def test_every_cut(architecture: str, photos: list[Tensor]) -> None:
    torch.manual_seed(0)
    task = ClassificationTask(architecture, None, crop_size=96, resize_size=100)
    expected = task.predict(photos)
    assert len(task.cuts) == (19 if architecture == "mobilenet_v2" else 5)
    assert task.features(photos).tensors[task.cut].shape[2:] == (12, 12)  # stride 8
    for cut in task.cuts:
        task.cut = cut
        features = task.features(photos)
        assert list(features.tensors) == [cut]
        assert features.image_sizes == tuple((p.shape[1], p.shape[2]) for p in photos)
        for a, b in zip(task.tail(features), expected, strict=True):
            assert torch.equal(a.logits, b.logits), cut


def test_real_mobilenet_sees_the_bear(
    asset_path: Callable[[str, str], Path], coco_images: list[Path]
) -> None:
    task = ClassificationTask("mobilenet_v2", asset_path("mobilenet-v2", "mobilenet_v2-b0353104.pth"))
    path = next(p for p in coco_images if p.name == "000000000285.jpg")
    photo = torch.from_numpy(np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1])).permute(2, 0, 1) / 255
    (scores,) = task.predict([photo])
    assert task.categories[scores.logits.argmax()] == "brown bear"
    assert scores.logits.softmax(dim=0).max() > 0.99
    metric = task.metric()
    metric.update([scores], [ClassTarget(task.categories.index("brown bear"))])
    assert metric.compute()["top_1"] == 1
    assert task.settings()["weights_sha256"].startswith("b0353104")


def test_second_weights_have_their_own_size(monkeypatch: pytest.MonkeyPatch, photos: list[Tensor]) -> None:
    state = get_model("mobilenet_v2", weights=None).state_dict()
    monkeypatch.setattr(MobileNet_V2_Weights, "get_state_dict", lambda *_, **__: state)
    task = ClassificationTask("mobilenet_v2", "IMAGENET1K_V2")
    assert task.resize_size == 232
    expected = MobileNet_V2_Weights.IMAGENET1K_V2.transforms()(photos[0])
    std, mean = (torch.tensor(v).view(3, 1, 1) for v in ([0.229, 0.224, 0.225], [0.485, 0.456, 0.406]))
    torch.testing.assert_close(task.prepare(photos[:1]).inputs[0], expected * std + mean)


def test_loss_is_cross_entropy_and_can_be_followed(photos: list[Tensor]) -> None:
    torch.manual_seed(0)
    task = ClassificationTask("resnet50", None, categories=["a", "b", "c"], crop_size=64, resize_size=64)
    logits = torch.stack([scores.logits for scores in task.predict(photos)])
    probabilities = logits.softmax(dim=1)
    expected = -(probabilities[0, 2].log() + probabilities[1, 0].log()) / 2
    image = photos[0].clone().requires_grad_()
    loss = task.loss([image, photos[1]], [ClassTarget(2), ClassTarget(0)])
    torch.testing.assert_close(loss.detach(), expected)
    (gradient,) = torch.autograd.grad(loss, image)
    with torch.no_grad():
        step = image - 0.05 * gradient / gradient.abs().max()
        assert task.loss([step, photos[1]], [ClassTarget(2), ClassTarget(0)]) < loss


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_images(size: tuple[int, int]) -> None:
    task = ClassificationTask("mobilenet_v2", None)
    (scores,) = task.predict(torch.rand(1, 3, *size))
    assert scores.logits.isfinite().all()


def test_long_images_lose_nothing_that_the_crop_shows() -> None:
    """A 1:9 image, whose ends are left out first, against resizing all of it."""
    task = ClassificationTask("mobilenet_v2", None)
    image = torch.rand(3, 64, 578, generator=torch.Generator().manual_seed(0))
    whole = transforms.center_crop(transforms.resize(image, [256], antialias=True), [224, 224])
    ours = task.prepare([image]).inputs[0]
    assert (ours - whole).abs().mean() < 0.02


def test_settings_are_json(tmp_path: Path) -> None:
    settings = json.loads(json.dumps(ClassificationTask("resnext50", None, cut="layer3").settings()))
    assert (settings["name"], settings["cut"], settings["resize_size"]) == ("resnext50", "layer3", 256)


def test_bad_arguments(tmp_path: Path, photos: list[Tensor]) -> None:
    with pytest.raises(ArgumentError, match=r"architecture must be one of resnet50, .*; got 'vgg'"):
        ClassificationTask("vgg", None)
    with pytest.raises(ArgumentError, match=r"cut must be one of stem, layer1, .*; got 'layer5'"):
        ClassificationTask("resnet50", None, cut="layer5")
    with pytest.raises(ArgumentError, match=r"crop_size must be in \[1, resize_size=200\]; got 224"):
        ClassificationTask("resnet50", None, resize_size=200)
    with pytest.raises(WeightsError, match="existing file, one of IMAGENET1K_V1, IMAGENET1K_V2, or None"):
        ClassificationTask("mobilenet_v2", tmp_path / "missing.pth")
    _, weights = random_network("mobilenet_v2", tmp_path)
    with pytest.raises(WeightsError, match=r"does not match the network: conv1\.weight is missing"):
        ClassificationTask("resnet50", weights)
    task = ClassificationTask("mobilenet_v2", None)
    with pytest.raises(ArgumentError, match=r"in \[0, 999\]"):
        task.loss(photos[:1], [ClassTarget(1000)])
    features = task.features(photos[:1])
    task.cut = "features7"
    with pytest.raises(ArgumentError, match="needed after the cut: features7; got 'features6'"):
        task.tail(features)


def test_resnest_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingToolError, match=r"pip install 'vcm\[timm\]'"):
        ClassificationTask("resnest50", None)


def test_resnest_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    build = timm.create_model

    def offline(name: str, pretrained: bool, **options: object) -> nn.Module:
        if pretrained:
            assert name == "resnest50d.in1k"
            raise ConnectionError("offline")
        return build(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"in1k could not be downloaded: offline\. Download"):
        ClassificationTask("resnest50", "in1k")
