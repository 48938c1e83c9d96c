from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from vcm.categories import COCO_CATEGORIES
from vcm.errors import ArgumentError, WeightsError
from vcm.tasks import YOLOTask
from vcm.tasks.letterbox import Letterbox
from vcm.types import BoxTarget, Detections

AssetPath = Callable[[str, str], Path]


def image(path: Path) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1])).permute(2, 0, 1) / 255


def load(asset_path: AssetPath, name: str, **options: object) -> YOLOTask:
    return YOLOTask(asset_path(name, f"{name}.cfg"), asset_path(name, f"{name}.weights"), **options)


@pytest.fixture(scope="module")
def task(asset_path: AssetPath) -> YOLOTask:
    return load(asset_path, "yolov4-tiny")


@pytest.fixture(scope="module")
def photos(coco_images: list[Path]) -> list[Tensor]:
    return [image(path) for path in coco_images[:4]]


def same(a: list[Detections], b: list[Detections]) -> bool:
    return all(
        torch.equal(x.boxes, y.boxes) and torch.equal(x.scores, y.scores) and torch.equal(x.labels, y.labels)
        for x, y in zip(a, b, strict=True)
    )


def darknet_detections(
    rows: np.ndarray, size: tuple[int, int], task: YOLOTask
) -> list[tuple[float, int, list[float]]]:
    """Darknet's do_nms_sort in plain Python, on OpenCV's decoded rows of every head, then boxes to pixels."""
    found = []
    for label in range(rows.shape[1] - 5):
        mine = sorted((r for r in rows if r[5 + label] > task.score_threshold), key=lambda r: -r[5 + label])
        kept: list[np.ndarray] = []
        for row in mine:
            if all(iou(row[:4], other[:4]) <= task.nms_threshold for other in kept):
                kept.append(row)
        found += [(float(r[5 + label]), label, r[:4]) for r in kept]
    found.sort(key=lambda item: -item[0])
    letterbox = Letterbox(size, task.input_size)
    (height, width), (top, left) = letterbox.scaled_size, letterbox.offset
    detections = []
    for score, label, (x, y, w, h) in found:
        corners = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * task.input_size[0]
        corners = (corners - [left, top, left, top]) / [width, height, width, height]
        corners = corners.clip(0, 1) * [size[1], size[0], size[1], size[0]]
        detections.append((score, label, corners.tolist()))
    return detections


def iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = [
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2)
        for i in (0, 1)
    ]
    common = max(0.0, sides[0]) * max(0.0, sides[1])
    return common / (a[2] * a[3] + b[2] * b[3] - common)


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny"])
def test_predictions_equal_opencv_and_a_plain_suppression(
    name: str, asset_path: AssetPath, photos: list[Tensor]
) -> None:
    task = load(asset_path, name, score_threshold=0.25)
    net = cv2.dnn.readNetFromDarknet(
        str(asset_path(name, f"{name}.cfg")), str(asset_path(name, f"{name}.weights"))
    )
    total = 0
    for photo in photos:
        size = (photo.shape[1], photo.shape[2])
        net.setInput(Letterbox(size, task.input_size).apply(photo)[None].numpy())
        rows = np.concatenate(net.forward([f"yolo_{index}" for index in task.network.head_layers]))
        expected = darknet_detections(rows, size, task)
        (ours,) = task.predict([photo])
        assert ours.labels.tolist() == [label for _, label, _ in expected]
        assert ours.scores.tolist() == pytest.approx([score for score, _, _ in expected], abs=1e-4)
        corners = torch.tensor([corners for _, _, corners in expected], dtype=torch.float32).reshape(-1, 4)
        torch.testing.assert_close(ours.boxes, corners, rtol=0, atol=0.1)
        total += len(expected)
    assert total >= 4


def test_finds_the_bear(task: YOLOTask, coco_images: list[Path]) -> None:
    photo = image(next(path for path in coco_images if path.name == "000000000285.jpg"))
    (found,) = task.predict(photo[None])
    assert COCO_CATEGORIES[found.labels[0]] == "bear"
    assert found.scores[0] > 0.8
    x1, y1, x2, y2 = found.boxes[0].tolist()
    assert (x2 - x1) * (y2 - y1) > 0.6 * photo.shape[1] * photo.shape[2]


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny"])
def test_every_cut_of_real_networks(name: str, asset_path: AssetPath, photos: list[Tensor]) -> None:
    task = load(asset_path, name, input_size=160)
    check_every_cut(task, photos[:2])


def test_every_cut_of_yolov3(photos: list[Tensor]) -> None:
    torch.manual_seed(0)
    task = YOLOTask("yolov3", names=["a", "b"], input_size=64, max_detections=20)
    assert (task.cut, len(task.cuts)) == ("layer15", 107)
    check_every_cut(task, photos[:1])


def check_every_cut(task: YOLOTask, images: list[Tensor]) -> None:
    with torch.no_grad():
        uncut = task.raw_outputs(images)
    expected = task.predict(images)
    assert all(len(found.scores) >= 2 for found in expected)
    for cut in task.cuts:
        task.cut = cut
        with torch.no_grad():
            features = task.features(images)
        assert next(iter(features.tensors)) == cut
        assert features.image_sizes == tuple((i.shape[1], i.shape[2]) for i in images)
        assert same(task.tail(features), expected), cut
    # The last cut's tensors are the heads' own outputs, from a run in two parts.
    heads = [features.tensors[f"layer{index}"] for index in task.network.head_layers]
    assert all(torch.equal(a, b) for a, b in zip(heads, uncut, strict=True))


def test_default_cuts_leave_one_tensor(asset_path: AssetPath, photos: list[Tensor]) -> None:
    for name, cut, channels in (("yolov3-tiny", "layer6", 128), ("yolov4-tiny", "layer16", 256)):
        task = load(asset_path, name)
        features = task.features(photos[:1])
        assert {n: tuple(t.shape) for n, t in features.tensors.items()} == {cut: (1, channels, 52, 52)}


def test_batches_of_one_size_or_many(task: YOLOTask, photos: list[Tensor]) -> None:
    together = task.predict(photos)
    alone = [task.predict([photo])[0] for photo in photos]
    for a, b in zip(together, alone, strict=True):
        assert a.labels[:3].tolist() == b.labels[:3].tolist()
        torch.testing.assert_close(a.scores[:3], b.scores[:3], rtol=0, atol=1e-4)
    batch = torch.stack([photos[0], photos[0].flip(2)])
    assert same(task.predict(batch), task.predict(list(batch)))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 2)])
def test_extreme_images(task: YOLOTask, size: tuple[int, int]) -> None:
    (found,) = task.predict(torch.rand(1, 3, *size))
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, 0::2] <= size[1]).all()
    assert (found.boxes[:, 1::2] <= size[0]).all()


def test_options_limit_the_detections(asset_path: AssetPath, photos: list[Tensor]) -> None:
    everything = load(asset_path, "yolov4-tiny", max_detections=1000).predict(photos)
    assert max(len(found.scores) for found in everything) > 20
    assert all((found.scores.diff() <= 0).all() for found in everything)
    few = load(asset_path, "yolov4-tiny", score_threshold=0.4, max_detections=2).predict(photos)
    for all_found, found in zip(everything, few, strict=True):
        count = min(2, int((all_found.scores > 0.4).sum()))
        assert torch.equal(found.scores, all_found.scores[:count])
    loose = load(asset_path, "yolov4-tiny", nms_threshold=0.9, max_detections=1000).predict(photos)
    assert sum(len(f.scores) for f in loose) > sum(len(f.scores) for f in everything)


def test_loss_prefers_what_the_network_sees(asset_path: AssetPath, photos: list[Tensor]) -> None:
    task = load(asset_path, "yolov4-tiny", score_threshold=0.4)
    found = task.predict(photos)
    assert sum(len(f.scores) for f in found) >= 4

    def target(boxes: Tensor, labels: Tensor) -> BoxTarget:
        return BoxTarget(boxes, labels, torch.zeros(len(labels), dtype=torch.bool), torch.ones(len(labels)))

    own = [target(f.boxes, f.labels) for f in found]
    wrong = [replace(t, labels=(t.labels + 7) % 80) for t in own]
    moved = [replace(t, boxes=t.boxes * 0.5) for t in own]
    with torch.no_grad():
        loss = task.loss(photos, own)
        assert loss < 0.5 * task.loss(photos, wrong)
        assert loss < 0.5 * task.loss(photos, moved)


def test_image_can_be_trained_towards_a_target(task: YOLOTask) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 96, 128, requires_grad=True)
    target = BoxTarget(
        torch.tensor(
            [[20.0, 10, 100, 80], [-50, 5, 60, 900], [300, 300, 400, 400], [9, 9, 9, 20], [0, 0, 50, 50]]
        ),
        torch.tensor([21, 0, 3, 4, 5]),
        torch.tensor([False, False, False, False, True]),
        torch.ones(5),
    )
    optimizer = torch.optim.Adam([image], lr=0.01)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = task.loss(image, [target])
        loss.backward()
        assert image.grad is not None
        assert image.grad.isfinite().all()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.grad is None for parameter in task.parameters())
    # Boxes outside the image or without area, and crowd regions, count for nothing; others are clipped.
    with torch.no_grad():
        clipped = BoxTarget(
            torch.tensor([[20.0, 10, 100, 80], [0, 5, 60, 96]]),
            torch.tensor([21, 0]),
            torch.zeros(2, dtype=torch.bool),
            torch.ones(2),
        )
        assert torch.equal(task.loss(image, [target]), task.loss(image, [clipped]))
        none = BoxTarget(target.boxes[:0], target.labels[:0], target.is_crowd[:0], target.area[:0])
        assert task.loss(image, [none]) > 0


def test_stays_frozen(task: YOLOTask, photos: list[Tensor]) -> None:
    before = task.predict(photos[:1])
    task.train()
    assert not any(module.training for module in task.modules())
    assert not any(parameter.requires_grad for parameter in task.parameters())
    assert same(task.predict(photos[:1]), before)
    with torch.no_grad():
        without = task.features(photos[:1])
    image = photos[0].clone().requires_grad_()
    features = task.features([image])
    assert torch.equal(next(iter(features.tensors.values())), next(iter(without.tensors.values())))
    features.tensors[task.cut].sum().backward()
    assert image.grad is not None
    assert image.grad.abs().sum() > 0
    assert not task.tail(features)[0].boxes.requires_grad


def test_bad_arguments(asset_path: AssetPath, task: YOLOTask, photos: list[Tensor], tmp_path: Path) -> None:
    cfg, weights = (
        asset_path("yolov3-tiny", "yolov3-tiny.cfg"),
        asset_path("yolov3-tiny", "yolov3-tiny.weights"),
    )
    for options, message in (
        ({"cut": "layer24"}, "cut must be one of layer0, layer1, .*, layer23; got 'layer24'"),
        ({"input_size": 100}, "input_size must be a multiple of 32 pixels; got 100"),
        ({"input_size": 416.0}, "input_size must be a whole number"),
        ({"score_threshold": 1.5}, "score_threshold must be a number from 0 to 1"),
        ({"score_threshold": "low"}, "score_threshold must be a number from 0 to 1; got 'low'"),
        ({"nms_threshold": -0.1}, "nms_threshold must be a number from 0 to 1"),
        ({"max_detections": 0}, "max_detections must be a whole number from 1"),
        ({"max_detections": 2.5}, "max_detections must be a whole number from 1"),
    ):
        with pytest.raises(ArgumentError, match=message):
            YOLOTask(cfg, **options)
    with pytest.raises(ArgumentError, match="before all; got 'person'"):
        YOLOTask(asset_path("yolov3-tiny", "coco.names"))
    with pytest.raises(WeightsError, match=r"too short for this cfg by \d+ values"):
        YOLOTask("yolov3", weights)
    with pytest.raises(WeightsError, match=r"too long for this cfg by \d+ values"):
        YOLOTask(cfg, _padded(weights, tmp_path))
    with pytest.raises(ArgumentError, match="NaN"):
        task.predict(torch.full((1, 3, 32, 32), float("nan")))
    with pytest.raises(ArgumentError, match="torch tensors; got 'ndarray'"):
        task.predict([photos[0].numpy()])
    features = task.features(photos[:1])
    with pytest.raises(ArgumentError, match="needed after the cut: layer16; got 'layer3'"):
        task.tail(replace(features, tensors={"layer3": features.tensors["layer16"]}))
    with pytest.raises(ArgumentError, match="tensors for 2 images"):
        task.tail(replace(features, image_sizes=features.image_sizes * 2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_find_the_same_objects(
    asset_path: AssetPath, photos: list[Tensor], dtype: torch.dtype
) -> None:
    files = (asset_path("yolov3-tiny", f"yolov3-tiny.{suffix}") for suffix in ("cfg", "weights"))
    task = YOLOTask(*files, score_threshold=0.5)
    expected = task.predict(photos)
    found = task.to(dtype).predict([photo.to(dtype) for photo in photos])
    assert sum(len(e.scores) for e in expected) > 0
    for e, f in zip(expected, found, strict=True):
        sure = e.scores > 0.6
        iou = box_iou(e.boxes[sure].double(), f.boxes.double()) * (e.labels[sure][:, None] == f.labels)
        assert (iou > 0.85).any(dim=1).all()


def _padded(weights: Path, folder: Path) -> Path:
    (folder / "long.weights").write_bytes(weights.read_bytes() + bytes(40))
    return folder / "long.weights"
