"""Letterbox resizing as in Darknet, and its inverse for boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GREY = 0.5


@dataclass(frozen=True)
class Letterbox:
    """Placement of an image in a network's input: scaled to fit and centred on grey.

    Args:
        image_size: (height, width) of the image in pixels.
        input_size: (height, width) of the network's input in pixels.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]

    @property
    def scaled_size(self) -> tuple[int, int]:
        """(height, width) of the scaled image; at least one pixel per side, unlike in Darknet."""
        (height, width), (rows, columns) = self.image_size, self.input_size
        if columns * height < rows * width:
            return max(1, height * columns // width), columns
        return rows, max(1, width * rows // height)

    @property
    def offset(self) -> tuple[int, int]:
        """(top, left) of the scaled image within the input."""
        (height, width), (rows, columns) = self.scaled_size, self.input_size
        return (rows - height) // 2, (columns - width) // 2

    def apply(self, image: Tensor) -> Tensor:
        """Scale and pad an image, (3, H, W) → (3, rows, columns); differentiable.

        As in Darknet's `resize_image`, corner pixels stay at the corners, and nothing is averaged when
        scaling down.
        """
        (height, width), (top, left) = self.scaled_size, self.offset
        scaled = self.scale(image)
        bottom, right = self.input_size[0] - height - top, self.input_size[1] - width - left
        return F.pad(scaled, (left, right, top, bottom), value=GREY)

    def scale(self, image: Tensor) -> Tensor:
        """Scale without padding, (3, H, W) → (3, *scaled_size); differentiable."""
        return F.interpolate(image[None], size=self.scaled_size, mode="bilinear", align_corners=True)[0]

    def boxes_to_input(self, boxes: Tensor) -> Tensor:
        """Convert (M, 4) x1 y1 x2 y2 in image pixels to centre and size as fractions of the input."""
        corners = boxes * self._scale(boxes) + self._shift(boxes)
        sizes = corners[:, 2:] - corners[:, :2]
        rows, columns = self.input_size
        centred = boxes.new_tensor([columns, rows])
        return _join((corners[:, :2] + sizes / 2) / centred, sizes / centred)

    def boxes_to_image(self, boxes: Tensor) -> Tensor:
        """Convert (M, 4) centre and size as fractions of the input to x1 y1 x2 y2 in image pixels."""
        rows, columns = self.input_size
        boxes = boxes * boxes.new_tensor([columns, rows, columns, rows])
        corners = _join(boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2)
        return (corners - self._shift(boxes)) / self._scale(boxes)

    def _scale(self, like: Tensor) -> Tensor:
        y, x = (scaled / size for scaled, size in zip(self.scaled_size, self.image_size, strict=True))
        return like.new_tensor([x, y, x, y])

    def _shift(self, like: Tensor) -> Tensor:
        top, left = self.offset
        return like.new_tensor([left, top, left, top])


def _join(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat((first, second), dim=1)
