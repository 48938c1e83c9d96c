"""Darknet networks against OpenCV's reader of Darknet files, an independent implementation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vcm.nn.darknet import (
    IMAGE,
    Darknet,
    decode_head,
    parse_cfg,
    read_cfg,
    read_weights,
    write_weights,
    yolov3_cfg,
)

REAL = ["yolov3-tiny", "yolov4-tiny"]
AssetPath = Callable[[str, str], Path]


def random_image(path: Path, size: int) -> Tensor:
    pixels = cv2.resize(cv2.imread(str(path))[:, :, ::-1], (size, size))
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None] / 255


def load(asset_path: AssetPath, name: str) -> tuple[Darknet, cv2.dnn.Net]:
    cfg, weights = asset_path(name, f"{name}.cfg"), asset_path(name, f"{name}.weights")
    network = Darknet(parse_cfg(read_cfg(cfg))).eval()
    read_weights(network, weights)
    return network, cv2.dnn.readNetFromDarknet(str(cfg), str(weights))


def reference(net: cv2.dnn.Net, image: Tensor, names: list[str]) -> list[Tensor]:
    net.setInput(image.numpy())
    return [torch.from_numpy(output) for output in net.forward(names)]


@pytest.mark.parametrize("name", REAL)
def test_raw_outputs_with_real_weights_and_images(
    name: str, asset_path: AssetPath, coco_images: list[Path]
) -> None:
    network, net = load(asset_path, name)
    folded, _ = load(asset_path, name)
    folded.fold()
    for path in coco_images[::12]:
        image = random_image(path, 416)
        expected = reference(net, image, [f"conv_{index - 1}" for index in network.head_layers])
        with torch.no_grad():
            for ours, fast, theirs in zip(network(image), folded(image), expected, strict=True):
                assert theirs.abs().max() > 10
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
                torch.testing.assert_close(fast, theirs, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", REAL)
def test_boxes_and_scores_with_real_weights(
    name: str, asset_path: AssetPath, coco_images: list[Path]
) -> None:
    """OpenCV's rows: centre, size, objectness, then objectness × class where above its threshold, else 0."""
    network, net = load(asset_path, name)
    scored = 0
    for path in coco_images[::12]:
        image = random_image(path, 416)
        expected = reference(net, image, [f"yolo_{index}" for index in network.head_layers])
        with torch.no_grad():
            raw = network(image)
        for output, head, rows in zip(raw, network.heads, expected, strict=True):
            decoded = decode_head(output, head, (416, 416))
            # OpenCV runs through anchors last, we before the cells.
            boxes = decoded.boxes[0].permute(1, 2, 0, 3).reshape(-1, 4)
            objectness = decoded.objectness[0].permute(1, 2, 0).reshape(-1, 1).sigmoid()
            scores = objectness * decoded.classes[0].permute(1, 2, 0, 3).flatten(0, 2).sigmoid()
            torch.testing.assert_close(boxes, rows[:, :4], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(objectness, rows[:, 4:5], rtol=0, atol=1e-4)
            told = rows[:, 5:] > 0
            torch.testing.assert_close(scores[told], rows[:, 5:][told], rtol=0, atol=1e-4)
            scored += int(told.sum())
    assert scored > 20


@pytest.mark.parametrize("spp", [False, True], ids=["yolov3", "yolov3-spp"])
def test_full_networks_with_random_weights(spp: bool, tmp_path: Path, coco_images: list[Path]) -> None:
    torch.manual_seed(0)
    text = yolov3_cfg(spp=spp).replace("=416\n", "=192\n")
    network = Darknet(parse_cfg(text))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # running statistics become those of the batch below
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    images = torch.cat([random_image(path, 192) for path in coco_images[:2]])
    with torch.no_grad():
        network.train()(images)
        ours = network.eval()(images[:1])
    (tmp_path / "net.cfg").write_text(text)
    write_weights(network, tmp_path / "net.weights")
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "net.cfg"), str(tmp_path / "net.weights"))
    theirs = reference(net, images[:1], [f"conv_{index - 1}" for index in network.head_layers])
    for a, b in zip(ours, theirs, strict=True):
        assert 0.3 < a.std() < 10  # as a trained network's
        torch.testing.assert_close(a, b, rtol=0, atol=1e-3)


def test_layers_against_opencv_on_odd_settings(tmp_path: Path) -> None:
    """Pooling with even size at stride 1 and odd at stride 2, groups, mish, relu, and a route of groups."""
    text = """
[net]
width=32
height=32
[convolutional]
batch_normalize=1
filters=8
size=3
pad=1
activation=mish
[maxpool]
size=2
stride=1
[maxpool]
size=3
stride=2
[convolutional]
filters=8
size=3
pad=1
groups=2
activation=relu
[route]
layers=-1
groups=4
group_id=2
[upsample]
stride=2
[route]
layers=-1,0
[convolutional]
filters=6
size=1
stride=1
activation=linear
[yolo]
mask=0
anchors=10,13
classes=1
num=1
"""
    torch.manual_seed(1)
    network = Darknet(parse_cfg(text)).eval()
    (tmp_path / "net.cfg").write_text(text)
    write_weights(network, tmp_path / "net.weights")
    net = cv2.dnn.readNetFromDarknet(str(tmp_path / "net.cfg"), str(tmp_path / "net.weights"))
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        theirs = reference(net, image, ["conv_7"])[0]
        torch.testing.assert_close(network(image)[0], theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", REAL)
def test_live_tensors_are_needed_every_one(name: str, asset_path: AssetPath) -> None:
    network, _ = load(asset_path, name)
    last = len(network) - 1
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64)
        expected = network.run({IMAGE: image}, 0, last)
        for cut in range(last):
            live = network.run({IMAGE: image}, 0, cut)
            assert tuple(live) == network.live_after(cut)
            assert next(iter(live)) == cut
            rest = network.run(live, cut + 1, last)
            assert all(torch.equal(rest[head], expected[head]) for head in network.head_layers)
            for index in live:
                with pytest.raises(KeyError):
                    network.run({i: t for i, t in live.items() if i != index}, cut + 1, last)
