"""Small images to train on in seconds."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vcm.data import ImageDataModule, ImageFolderDataset


def write_images(folder, count, size=64, seed=0):
    """A bright rectangle on a dark gradient each."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        image = np.linspace(0, 90, size)[None, :, None] * rng.random((1, 1, 3)) + np.zeros((size, size, 1))
        top, left = rng.integers(0, size - 24, 2)
        image[top : top + 24, left : left + 24] = rng.integers(190, 256, 3)
        image += rng.normal(0, 3, image.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def image_data(tmp_path):
    """A datamodule of 12 training and 4 validation images."""

    def data(**settings):
        for part, count, seed in (("train", 12, 0), ("val", 4, 1)):
            if not (tmp_path / part).exists():
                write_images(tmp_path / part, count, seed=seed)
        return ImageDataModule(
            train=ImageFolderDataset(tmp_path / "train"),
            val=ImageFolderDataset(tmp_path / "val"),
            **{"crop_size": 64, "batch_size": 4, **settings},
        )

    return data
