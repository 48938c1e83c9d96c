from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vcm.tasks.letterbox import Letterbox

INPUT = (32, 48)


def darknet_resize(image: Tensor, height: int, width: int) -> Tensor:
    """Darknet's resize_image: along rows, then along columns, corner pixels kept, value by value."""
    channels, rows, columns = image.shape
    part = torch.zeros(channels, rows, width)
    out = torch.zeros(channels, height, width)
    w_scale = (columns - 1) / max(1, width - 1)
    h_scale = (rows - 1) / (height - 1)
    for k in range(channels):
        for r in range(rows):
            for c in range(width):
                if c == width - 1 or columns == 1:
                    part[k, r, c] = image[k, r, columns - 1]
                else:
                    at = int(c * w_scale)
                    d = c * w_scale - at
                    part[k, r, c] = (1 - d) * image[k, r, at] + d * image[k, r, at + 1]
        for r in range(height):
            at = int(r * h_scale)
            d = r * h_scale - at
            for c in range(width):
                out[k, r, c] = (1 - d) * part[k, at, c]
                if not (r == height - 1 or rows == 1):
                    out[k, r, c] += d * part[k, at + 1, c]
    return out


def darknet_letterbox(image: Tensor) -> Tensor:
    """Darknet's letterbox_image."""
    height, width = INPUT
    _, rows, columns = image.shape
    if width / columns < height / rows:
        new_width, new_height = width, rows * width // columns
    else:
        new_width, new_height = columns * height // rows, height
    out = torch.full((3, height, width), 0.5)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    out[:, top : top + new_height, left : left + new_width] = darknet_resize(image, new_height, new_width)
    return out


@pytest.mark.parametrize(
    "size", [(32, 48), (20, 20), (100, 70), (15, 90), (41, 60), (90, 11), (1, 7), (30, 1)]
)
def test_equals_darknets_loops(size: tuple[int, int]) -> None:
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    ours = Letterbox(size, INPUT).apply(image)
    torch.testing.assert_close(ours, darknet_letterbox(image), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_extreme_images_keep_a_pixel(size: tuple[int, int]) -> None:
    box = Letterbox(size, INPUT)
    assert min(box.scaled_size) >= 1
    out = box.apply(torch.ones(3, *size))
    assert out.shape == (3, *INPUT)
    assert (out == 1).sum() == 3 * box.scaled_size[0] * box.scaled_size[1]


@pytest.mark.parametrize("size", [(20, 20), (100, 70), (15, 90)])
def test_boxes_follow_the_image(size: tuple[int, int]) -> None:
    """A white rectangle's pixels lie where its box is put, and the box comes back."""
    box = torch.tensor([[2.0, 3.0, 11.0, 12.0]])
    image = torch.zeros(3, *size)
    image[:, 3:12, 2:11] = 1
    letterbox = Letterbox(size, INPUT)
    rows, columns = (letterbox.apply(image)[0] > 0.75).nonzero(as_tuple=True)
    placed = letterbox.boxes_to_input(box)
    x, y, w, h = (placed[0] * torch.tensor([48, 32, 48, 32])).tolist()
    assert abs(x - w / 2 - columns.min()) < 1.5
    assert abs(x + w / 2 - columns.max() - 1) < 1.5
    assert abs(y - h / 2 - rows.min()) < 1.5
    assert abs(y + h / 2 - rows.max() - 1) < 1.5
    torch.testing.assert_close(letterbox.boxes_to_image(placed), box)


def test_gradients_reach_the_image() -> None:
    image = torch.rand(3, 40, 30, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Letterbox((40, 30), (8, 8)).apply, image, fast_mode=True)
