"""Training transforms of images and boxes."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from vcm.types import BoxTarget, Sample

MIN_VISIBLE = 0.25
"""Minimum share of a box's area inside the crop for the box to be kept."""


class RandomCrop:
    """Random square crop, with random horizontal flips; boxes are transformed along.

    An image smaller than the crop is padded by replicating its edge. Boxes with less than a quarter of their
    area inside the crop are dropped. Random numbers come from torch's global generator, so that data-loader
    workers differ and seeds reproduce the crops.
    """

    def __init__(self, size: int, *, mirror: bool = True, smallest_scale: float = 1.0) -> None:
        """Set the parameters.

        Args:
            size: Side of the crop in pixels.
            mirror: Whether to flip half of the crops horizontally.
            smallest_scale: Smallest factor by which a crop is scaled down, in (0, 1]. Factors are log-uniform
                between this and 1, limited by the size of the image.
        """
        self.size, self.mirror, self.smallest_scale = size, mirror, smallest_scale

    def __call__(self, sample: Sample) -> Sample:
        """Crop one sample to (3, size, size)."""
        image = _pad_to(sample.image, self.size)
        side = self._side(min(image.shape[1:]))
        top = int(torch.randint(image.shape[1] - side + 1, ()))
        left = int(torch.randint(image.shape[2] - side + 1, ()))
        image = image[:, top : top + side, left : left + side]
        if side > self.size:
            image = resize(image, [self.size, self.size], antialias=True)
        mirrored = self.mirror and bool(torch.rand(()) < 0.5)
        target = sample.target
        if isinstance(target, BoxTarget):
            target = crop_boxes(target, top, left, side, mirrored=mirrored)
            shrunk = self.size / side
            target = replace(target, boxes=target.boxes * shrunk, area=target.area * shrunk**2)
        return Sample(sample.image_id, (image.flip(2) if mirrored else image).contiguous(), target)

    def _side(self, shorter: int) -> int:
        """Draw the side of the region, in image pixels, that is scaled to the crop."""
        if self.smallest_scale == 1:
            return self.size
        scale: float = max(self.smallest_scale, self.size / shorter) ** float(torch.rand(()))
        return min(round(self.size / scale), shorter)


def crop_boxes(target: BoxTarget, top: int, left: int, size: int, *, mirrored: bool) -> BoxTarget:
    """Return the part of a target that is visible in a square crop at (top, left), in pixels of the crop."""
    whole = target.boxes - torch.tensor([left, top, left, top], dtype=torch.float32)
    boxes = whole.clamp(0, size)
    share = _area(boxes) / _area(whole).clamp(min=1e-6)
    kept = share >= MIN_VISIBLE
    if mirrored:
        boxes = torch.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], dim=1)
    return BoxTarget(boxes[kept], target.labels[kept], target.is_crowd[kept], (target.area * share)[kept])


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _pad_to(image: Tensor, size: int) -> Tensor:
    """Replicate the right and bottom edge until both sides have at least `size` pixels."""
    bottom, right = max(size - image.shape[1], 0), max(size - image.shape[2], 0)
    if bottom == right == 0:
        return image
    return F.pad(image[None].float(), (0, right, 0, bottom), mode="replicate")[0].to(torch.uint8)
