"""YOLO training loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import (
    box_convert,
    box_iou,
    complete_box_iou_loss,
    distance_box_iou_loss,
    generalized_box_iou_loss,
)

from vcm.nn.darknet import HeadOutput, HeadSpec, decode_head

_IOU_LOSSES: dict[str, Callable[..., Tensor]] = {
    "giou": generalized_box_iou_loss,
    "diou": distance_box_iou_loss,
    "ciou": complete_box_iou_loss,
}


def yolo_loss(
    raw: Tensor,
    head: HeadSpec,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    input_size: tuple[int, int],
) -> Tensor:
    """Compute the loss of one detection head: the mean over images of the sum over cells and anchors; scalar.

    L = w_box · Σ_responsible L_box + w_obj · Σ_not ignored BCE(objectness) + w_cls · Σ_responsible Σ_c
    BCE(class c)

    For each true box the anchor whose shape fits best, of all heads' anchors, is responsible, in the cell
    that holds the box's centre; with it every anchor whose shape has an IoU above `head.iou_threshold`. Empty
    cells whose predicted box has an IoU above `head.ignore_threshold` with any true box are ignored. L_box is
    ½ (2 − w·h) · (‖σ(t_xy) − t̂_xy‖² + ‖t_wh − t̂_wh‖²) for "mse" (Redmon and Farhadi, "YOLOv3", arXiv
    1804.02767, whose "gradient is the ground truth value minus our prediction"; w·h is the true box's share
    of the input), and 1 − GIoU, 1 − DIoU or 1 − CIoU otherwise (Zheng et al., "Distance-IoU Loss", arXiv
    1911.08287).

    Args:
        raw: Raw output of the head, (N, A·(5+C), H, W).
        head: Anchors, thresholds and weights of the head.
        boxes: True boxes of each image, (M, 4): centre x, centre y, width and height as fractions of the
            network's input, width and height above 0; M may be 0.
        labels: Class indices of each image, (M,).
        input_size: (height, width) of the network's input in pixels.
    """
    output = decode_head(raw, head, input_size)
    num_images, _, rows, columns = output.objectness.shape
    index = torch.cat([torch.full_like(label, image) for image, label in enumerate(labels)])
    truth, classes = torch.cat(list(boxes)).to(raw.dtype), torch.cat(list(labels))
    responsible = _responsible(truth, head, input_size)
    anchor, which = responsible.nonzero(as_tuple=True)
    centres = truth[which, :2] * truth.new_tensor([columns, rows])
    x = centres[:, 0].long().clamp(0, columns - 1)
    y = centres[:, 1].long().clamp(0, rows - 1)
    cell = (index[which], anchor, y, x)

    objectness = torch.zeros_like(output.objectness)
    objectness[cell] = 1
    class_target = torch.zeros_like(output.classes)
    class_target[(*cell, classes[which])] = 1
    occupied = objectness > 0
    counted = occupied | ~_overlapping(output.boxes.detach(), boxes, head.ignore_threshold)

    box_loss = _box_loss(output, head, cell, truth[which], input_size)
    objectness_loss = F.binary_cross_entropy_with_logits(
        output.objectness[counted], objectness[counted], reduction="sum"
    )
    class_loss = F.binary_cross_entropy_with_logits(
        output.classes[occupied], class_target[occupied], reduction="sum"
    )
    total = (
        head.box_weight * box_loss + head.objectness_weight * objectness_loss + head.class_weight * class_loss
    )
    return total / num_images


def _responsible(truth: Tensor, head: HeadSpec, input_size: tuple[int, int]) -> Tensor:
    """Return which anchors are responsible for which true box, by IoU of their shapes: (A, M) bool."""
    height, width = input_size
    anchors = truth.new_tensor(head.anchors)
    sizes = truth[:, 2:] * truth.new_tensor([width, height])
    overlap = torch.minimum(anchors[:, None], sizes).prod(dim=2)
    iou = overlap / (anchors.prod(dim=1)[:, None] + sizes.prod(dim=1) - overlap)
    best = F.one_hot(iou.argmax(dim=0), len(anchors)).T.bool()
    return (best | (iou > head.iou_threshold))[list(head.mask)]


def _overlapping(predicted: Tensor, boxes: Sequence[Tensor], threshold: float) -> Tensor:
    """Return which predicted boxes have an IoU above `threshold` with any true box: (N, A, H, W) bool."""
    flags = torch.zeros(predicted.shape[:-1], dtype=torch.bool, device=predicted.device)
    for image, truth in enumerate(boxes):
        if len(truth):
            corners = box_convert(predicted[image].reshape(-1, 4), "cxcywh", "xyxy")
            iou = box_iou(corners, box_convert(truth.to(predicted.dtype), "cxcywh", "xyxy"))
            flags[image] = (iou.amax(dim=1) > threshold).view(flags.shape[1:])
    return flags


def _box_loss(
    output: HeadOutput,
    head: HeadSpec,
    cell: tuple[Tensor, ...],
    truth: Tensor,
    input_size: tuple[int, int],
) -> Tensor:
    """Sum the box loss over K responsible anchors at `cell` with true boxes `truth`, (K, 4)."""
    height, width = input_size
    pixels = truth.new_tensor([width, height, width, height])
    if head.box_loss != "mse":
        predicted = box_convert(output.boxes[cell] * pixels, "cxcywh", "xyxy")
        return _IOU_LOSSES[head.box_loss](
            predicted, box_convert(truth * pixels, "cxcywh", "xyxy"), reduction="sum"
        )
    anchors = truth.new_tensor([head.anchors[i] for i in head.mask])[cell[1]]
    sizes = (truth[:, 2:] * pixels[2:] / anchors).log()
    _, _, y, x = cell
    rows, columns = output.objectness.shape[2:]
    centres = truth[:, :2] * truth.new_tensor([columns, rows]) - torch.stack((x, y), dim=1)
    squares = (output.cells[cell] - centres).square() + (output.sizes[cell] - sizes).square()
    return (0.5 * (2 - truth[:, 2:].prod(dim=1, keepdim=True)) * squares).sum()
