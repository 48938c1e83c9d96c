from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vcm.losses.yolo import yolo_loss
from vcm.nn.darknet import HeadSpec, decode_head

SIZE = (64, 96)
CLASSES = 3
HEAD = HeadSpec(
    anchors=((8.0, 6.0), (14.0, 20.0), (40.0, 30.0)),
    mask=(0, 2),
    num_classes=CLASSES,
    scale_xy=1.0,
    ignore_threshold=0.4,
    iou_threshold=1.0,
    box_loss="mse",
    box_weight=1.0,
    objectness_weight=1.0,
    class_weight=1.0,
)


def targets(seed: int, counts: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for count in counts:
        sizes = 0.1 + 0.4 * torch.rand(count, 2, generator=generator)
        centres = sizes / 2 + (1 - sizes) * torch.rand(count, 2, generator=generator)
        boxes.append(torch.cat((centres, sizes), dim=1))
        labels.append(torch.randint(CLASSES, (count,), generator=generator))
    return boxes, labels


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bce(x: float, target: float) -> float:
    return -(target * math.log(sigmoid(x)) + (1 - target) * math.log(1 - sigmoid(x)))


def overlap(a: list[float], b: list[float]) -> tuple[float, float, float]:
    """IoU, the union, and the area of the box around both, for boxes as centre and size."""
    sides, around = [], []
    for i in (0, 1):
        low, high = a[i] - a[i + 2] / 2, a[i] + a[i + 2] / 2
        other_low, other_high = b[i] - b[i + 2] / 2, b[i] + b[i + 2] / 2
        sides.append(max(0.0, min(high, other_high) - max(low, other_low)))
        around.append(max(high, other_high) - min(low, other_low))
    common = sides[0] * sides[1]
    union = a[2] * a[3] + b[2] * b[3] - common
    return common / union, union, around[0] * around[1]


def iou_loss(kind: str, a: list[float], b: list[float]) -> float:
    iou, union, around = overlap(a, b)
    if kind == "giou":
        return 1 - iou + (around - union) / around
    width = max(a[0] + a[2] / 2, b[0] + b[2] / 2) - min(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = max(a[1] + a[3] / 2, b[1] + b[3] / 2) - min(a[1] - a[3] / 2, b[1] - b[3] / 2)
    distance = ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (width**2 + height**2)
    if kind == "diou":
        return 1 - iou + distance
    v = 4 / math.pi**2 * (math.atan(b[2] / b[3]) - math.atan(a[2] / a[3])) ** 2
    return 1 - iou + distance + v * v / (1 - iou + v)


def slow_loss(raw: Tensor, head: HeadSpec, boxes: list[Tensor], labels: list[Tensor]) -> float:
    """The loss, one cell and one box after the other, in plain Python."""
    height, width = SIZE
    total = 0.0
    num_images, _, rows, columns = raw.shape
    for image in range(num_images):
        assigned: dict[tuple[int, int, int], list[tuple[list[float], int]]] = {}
        for box, label in zip(boxes[image].tolist(), labels[image].tolist(), strict=True):
            w, h = box[2] * width, box[3] * height
            shapes = [overlap([0, 0, w, h], [0, 0, *anchor])[0] for anchor in head.anchors]
            for place, anchor in enumerate(head.mask):
                if anchor == shapes.index(max(shapes)) or shapes[anchor] > head.iou_threshold:
                    cell = (place, int(box[1] * rows), int(box[0] * columns))
                    assigned.setdefault(cell, []).append((box, label))
        for place, anchor in enumerate(head.mask):
            for y in range(rows):
                for x in range(columns):
                    first = place * (5 + head.num_classes)
                    t = raw[image, first : first + 5 + head.num_classes, y, x].tolist()
                    s = head.scale_xy
                    px, py = (sigmoid(v) * s - (s - 1) / 2 for v in t[:2])
                    predicted = [
                        (x + px) / columns,
                        (y + py) / rows,
                        math.exp(t[2]) * head.anchors[anchor][0] / width,
                        math.exp(t[3]) * head.anchors[anchor][1] / height,
                    ]
                    mine = assigned.get((place, y, x), [])
                    if mine:
                        total += head.objectness_weight * bce(t[4], 1)
                        for c in range(head.num_classes):
                            total += head.class_weight * bce(
                                t[5 + c], float(any(label == c for _, label in mine))
                            )
                    elif all(
                        overlap(predicted, b)[0] <= head.ignore_threshold for b in boxes[image].tolist()
                    ):
                        total += head.objectness_weight * bce(t[4], 0)
                    for box, _ in mine:
                        if head.box_loss == "mse":
                            wanted = (
                                box[0] * columns - x,
                                box[1] * rows - y,
                                math.log(box[2] * width / head.anchors[anchor][0]),
                                math.log(box[3] * height / head.anchors[anchor][1]),
                            )
                            squares = sum(
                                (a - b) ** 2 for a, b in zip((px, py, *t[2:4]), wanted, strict=True)
                            )
                            total += head.box_weight * 0.5 * (2 - box[2] * box[3]) * squares
                        else:
                            pixels = [width, height, width, height]
                            a = [v * p for v, p in zip(predicted, pixels, strict=True)]
                            b = [v * p for v, p in zip(box, pixels, strict=True)]
                            total += head.box_weight * iou_loss(head.box_loss, a, b)
    return total / num_images


@pytest.mark.parametrize("kind", ["mse", "giou", "diou", "ciou"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale_xy": 1.05, "box_weight": 0.07, "objectness_weight": 0.4, "class_weight": 0.5},
        {"iou_threshold": 0.2, "ignore_threshold": 0.1},
    ],
    ids=["plain", "weights", "several anchors"],
)
def test_equals_a_plain_loop(kind: str, options: dict[str, float]) -> None:
    torch.manual_seed(0)
    head = replace(HEAD, box_loss=kind, **options)
    raw = torch.randn(3, head.num_channels, 4, 6, dtype=torch.float64)
    boxes, labels = targets(1, (12, 0, 3))
    expected = slow_loss(raw, head, boxes, labels)
    loss = yolo_loss(raw, head, boxes, labels, SIZE)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_plain_loop_uses_every_rule() -> None:
    """Guard of the test above: ignored cells, several boxes in a cell, and boxes of other heads do occur."""
    torch.manual_seed(0)
    raw = torch.randn(3, HEAD.num_channels, 4, 6, dtype=torch.float64)
    boxes, labels = targets(1, (12, 0, 3))
    plain = slow_loss(raw, HEAD, boxes, labels)
    assert slow_loss(raw, replace(HEAD, ignore_threshold=1.0), boxes, labels) > plain
    assert slow_loss(raw, replace(HEAD, mask=(0, 1)), boxes, labels) != plain
    assert slow_loss(raw, replace(HEAD, iou_threshold=0.2), boxes, labels) > plain


@pytest.mark.parametrize("kind", ["mse", "ciou"])
def test_optimizing_raw_outputs_finds_the_boxes(kind: str) -> None:
    torch.manual_seed(0)
    head = replace(HEAD, box_loss=kind, mask=(0, 1, 2), ignore_threshold=1.0)
    raw = torch.zeros(1, head.num_channels, 4, 6, requires_grad=True)
    truth = torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.5, 0.4]])
    labels = torch.tensor([2, 0])
    optimizer = torch.optim.Adam([raw], lr=0.1)
    first = yolo_loss(raw, head, [truth], [labels], SIZE).item()
    for _ in range(300):
        optimizer.zero_grad()
        loss = yolo_loss(raw, head, [truth], [labels], SIZE)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02 * first
    output = decode_head(raw.detach(), head, SIZE)
    best = output.objectness.flatten().sigmoid().topk(3)
    assert best.values[1] > 0.9 > 0.1 > best.values[2]
    found = output.boxes.reshape(-1, 4)[best.indices[:2]]
    order = found[:, 0].argsort()
    torch.testing.assert_close(found[order], truth, rtol=0, atol=0.02)
    classes = output.classes.reshape(-1, CLASSES)[best.indices[:2]].argmax(dim=1)
    assert torch.equal(classes[order], labels)


@pytest.mark.parametrize("kind", ["mse", "ciou"])
def test_images_without_boxes(kind: str) -> None:
    head = replace(HEAD, box_loss=kind)
    raw = torch.zeros(2, head.num_channels, 4, 6, requires_grad=True)
    none = [torch.zeros(0, 4), torch.zeros(0, 4)]
    loss = yolo_loss(raw, head, none, [torch.zeros(0, dtype=torch.int64)] * 2, SIZE)
    loss.backward()
    assert loss.item() == pytest.approx(2 * 4 * 6 * math.log(2))
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
