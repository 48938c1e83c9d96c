"""Training transforms of images and boxes."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from vcm.types import BoxTarget, Sample

MIN_VISIBLE = 0.25
"""Share of a box's area that must lie in the crop for the box to stay."""


class RandomCrop:
    """A random square crop, mirrored half the time; boxes move along.

    An image smaller than the crop is padded by repeating its edge. Boxes of which less than a quarter is
    left are dropped. Random numbers come from torch's global generator, so data-loader workers differ and
    seeds reproduce.
    """

    def __init__(self, size: int, *, mirror: bool = True, smallest_scale: float = 1.0) -> None:
        """Take the crop's side in pixels, whether half the crops are mirrored, and how far they shrink.

        Args:
            size: Side in pixels.
            mirror: Whether half the crops are mirrored.
            smallest_scale: Crops are shrunk by a factor between this and 1, log-uniform, as far as the
                image's size allows; in (0, 1].
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
        """Side, in the image's pixels, of what becomes the crop."""
        if self.smallest_scale == 1:
            return self.size
        scale: float = max(self.smallest_scale, self.size / shorter) ** float(torch.rand(()))
        return min(round(self.size / scale), shorter)


def crop_boxes(target: BoxTarget, top: int, left: int, size: int, *, mirrored: bool) -> BoxTarget:
    """The part of a target that a square crop at (top, left) shows, in the crop's own pixels."""
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
    """Repeat the right and bottom edge until both sides are at least `size`."""
    bottom, right = max(size - image.shape[1], 0), max(size - image.shape[2], 0)
    if bottom == right == 0:
        return image
    return F.pad(image[None].float(), (0, right, 0, bottom), mode="replicate")[0].to(torch.uint8)
