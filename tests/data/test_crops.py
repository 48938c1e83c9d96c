import numpy as np
import pytest
import torch

from vcm.data.transforms import RandomCrop, crop_boxes
from vcm.types import BoxTarget, Sample


class TestCrops:
    def test_boxes_move_with_their_pixels(self):
        image = torch.zeros(3, 50, 70, dtype=torch.uint8)
        image[:, 20:30, 30:45] = 255
        target = BoxTarget(
            torch.tensor([[30.0, 20, 45, 30]]),
            torch.tensor([4]),
            torch.tensor([False]),
            torch.tensor([150.0]),
        )
        torch.manual_seed(0)
        seen = set()
        for _ in range(60):
            crop = RandomCrop(32)(Sample("a", image, target))
            ys, xs = np.nonzero(crop.image[0].numpy())
            visible = len(ys) / 150
            seen.add(visible >= 0.25)
            assert len(crop.target.boxes) == (visible >= 0.25)
            if visible >= 0.25:
                assert crop.target.boxes.tolist() == [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
                assert crop.target.area.item() == pytest.approx(len(ys))
        assert seen == {True, False}

    def test_small_images_are_padded_with_their_edge(self):
        image = torch.arange(3 * 5 * 7, dtype=torch.uint8).reshape(3, 5, 7)
        crop = RandomCrop(8, mirror=False)(Sample("a", image, None)).image
        assert torch.equal(crop[:, :5, :7], image)
        assert torch.equal(crop[:, 5:, :7], image[:, -1:].expand(-1, 3, -1))
        assert torch.equal(crop[:, :, 7], crop[:, :, 6])

    def test_box_wholly_outside_is_dropped(self):
        target = BoxTarget(
            torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([0]), torch.tensor([False]), torch.tensor([25.0])
        )
        assert len(crop_boxes(target, 20, 20, 16, mirrored=True).boxes) == 0
