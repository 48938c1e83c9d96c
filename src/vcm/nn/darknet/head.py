"""YOLO detection head: specification and decoding of raw outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vcm.nn.darknet.cfg import Section

BOX_LOSSES = ("mse", "giou", "diou", "ciou")
_UNSUPPORTED = {"new_coords": 0.0, "focal_loss": 0.0, "truth_thresh": 1.0, "label_smooth_eps": 0.0}
"""Options of [yolo] that change outputs or loss, with the only value that is supported."""


@dataclass(frozen=True)
class HeadSpec:
    """Settings of a `[yolo]` section.

    Attributes:
        anchors: (width, height) in pixels of the network's input, of all heads.
        mask: Indices of this head's anchors.
        num_classes: Number of classes C.
        scale_xy: Stretch of the centre's sigmoid around 0.5, so that cell borders can be reached.
        ignore_threshold: Predicted boxes with an IoU above this with any true box have no objectness loss,
            unless their anchor is responsible for it.
        iou_threshold: Anchors whose shape has an IoU above this with a true box are also responsible for it.
        box_loss: "mse", "giou", "diou" or "ciou".
        box_weight: Factor of the box loss.
        objectness_weight: Factor of the objectness loss.
        class_weight: Factor of the class loss.
    """

    anchors: tuple[tuple[float, float], ...]
    mask: tuple[int, ...]
    num_classes: int
    scale_xy: float
    ignore_threshold: float
    iou_threshold: float
    box_loss: str
    box_weight: float
    objectness_weight: float
    class_weight: float

    @property
    def num_channels(self) -> int:
        """Number of channels of the raw output: 4 + 1 + C for each anchor."""
        return len(self.mask) * (5 + self.num_classes)

    @classmethod
    def from_section(cls, section: Section) -> HeadSpec:
        """Read a `[yolo]` section.

        Raises:
            ArgumentError: If a value is missing, malformed, or not supported.
        """
        sizes = section.numbers("anchors")
        count = section.integer("num", low=1)
        if len(sizes) != 2 * count or min(sizes) <= 0:
            raise section.error("anchors", f"num={count} pairs of positive numbers", f"{len(sizes)} numbers")
        mask = section.integers("mask", range(count), low=0)
        if max(mask) >= count:
            raise section.error("mask", f"indices below num={count}", mask)
        for option, value in _UNSUPPORTED.items():
            if section.number(option, value) != value:
                raise section.error(option, f"{value:g}, the only value supported", section.options[option])
        box_loss = section.options.get("iou_loss", "mse")
        if box_loss not in BOX_LOSSES:
            raise section.error("iou_loss", f"one of {', '.join(BOX_LOSSES)}", box_loss)
        return cls(
            anchors=tuple(zip(sizes[0::2], sizes[1::2], strict=True)),
            mask=mask,
            num_classes=section.integer("classes", low=1),
            scale_xy=section.number("scale_x_y", 1.0),
            ignore_threshold=section.number("ignore_thresh", 0.5),
            iou_threshold=section.number("iou_thresh", 1.0),
            box_loss=box_loss,
            # Darknet's own 2018 code, which yolov3.cfg is for, has no such factor.
            box_weight=section.number("iou_normalizer", 1.0),
            objectness_weight=section.number("obj_normalizer", 1.0),
            class_weight=section.number("cls_normalizer", 1.0),
        )


class HeadOutput(NamedTuple):
    """Decoded output of a head with A anchors and C classes.

    Attributes:
        cells: (N, A, H, W, 2) centre within its cell, x and y, in cells.
        sizes: (N, A, H, W, 2) log of width and height over the anchor's.
        boxes: (N, A, H, W, 4) centre x, centre y, width, height as fractions of the network's input.
        objectness: (N, A, H, W) logits.
        classes: (N, A, H, W, C) logits.
    """

    cells: Tensor
    sizes: Tensor
    boxes: Tensor
    objectness: Tensor
    classes: Tensor


def decode_head(raw: Tensor, head: HeadSpec, input_size: tuple[int, int]) -> HeadOutput:
    """Decode the raw output of a head: b = ((σ(t_xy)·s − (s−1)/2 + c) / grid, anchor · exp(t_wh) / input).

    Redmon and Farhadi, "YOLOv3: An Incremental Improvement", arXiv 1804.02767; the stretch s is from
    Bochkovskiy et al., "YOLOv4", arXiv 2004.10934.

    Args:
        raw: Output of the last convolution, (N, A·(5+C), H, W).
        head: Settings of the head.
        input_size: (height, width) of the network's input in pixels.
    """
    batch, _, rows, columns = raw.shape
    raw = raw.reshape(batch, len(head.mask), 5 + head.num_classes, rows, columns).permute(0, 1, 3, 4, 2)
    height, width = input_size
    cells = raw[..., :2].sigmoid() * head.scale_xy - (head.scale_xy - 1) / 2
    y, x = torch.meshgrid(
        torch.arange(rows, device=raw.device, dtype=raw.dtype),
        torch.arange(columns, device=raw.device, dtype=raw.dtype),
        indexing="ij",
    )
    anchors = raw.new_tensor([head.anchors[i] for i in head.mask]) / raw.new_tensor([width, height])
    centres = (cells + torch.stack((x, y), dim=-1)) / raw.new_tensor([columns, rows])
    sizes = raw[..., 2:4]
    boxes = torch.cat((centres, sizes.exp() * anchors[:, None, None]), dim=-1)
    return HeadOutput(cells, sizes, boxes, raw[..., 4], raw[..., 5:])
