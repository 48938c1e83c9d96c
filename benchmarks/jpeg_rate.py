"""Fit the rate of the differentiable JPEG to Pillow's bytes, and print how well it does on other images.

Least squares of the relative error over crops of the photo corpus' training part, at nine qualities, 4:2:0
and 4:4:4 together; judged on crops of its validation part. The numbers that it prints first are `_BITS` of
src/vcm/nn/proxy/jpeg.py.

    python benchmarks/jpeg_rate.py
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vcm.codecs import JPEGCodec
from vcm.data import ImageFolderDataset
from vcm.data.assets import asset_file, fetch
from vcm.data.datasets import Part
from vcm.nn.proxy import JPEGProxy
from vcm.nn.proxy.jpeg import CHROMA, HEADER_BITS

QUALITIES = (5, 10, 20, 30, 45, 60, 75, 85, 95)
SIDES = (64, 128, 256, 384)
NUM_IMAGES: dict[Part, int] = {"train": 200, "val": 60}


def crops(part: Part) -> list[Tensor]:
    """Random crops of one part's first images, of several sizes."""
    root = asset_file("photo-corpus", ".")
    dataset = ImageFolderDataset(root, part=part)
    random = np.random.default_rng(0)
    images = []
    for number, index in enumerate(random.permutation(len(dataset))[: NUM_IMAGES[part]]):
        image = dataset.image(int(index))
        height, width = (min(side, SIDES[number % len(SIDES)]) for side in image.shape[1:])
        top, left = (
            int(random.integers(side - kept + 1))
            for side, kept in zip(image.shape[1:], (height, width), strict=True)
        )
        images.append(image[:, top : top + height, left : left + width])
    return images


def measure(images: list[Tensor], chroma: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, quality, 8) counts; (image, quality) bits of real streams and MSE of the proxy."""
    proxy = JPEGProxy(chroma=chroma).eval()
    counts, bits, errors = [], [], []
    for image in images:
        x = image[None].float() / 255
        for quality in QUALITIES:
            codec = JPEGCodec(quality, chroma=chroma)
            data = codec.encode(image)
            error = proxy(x, quality).x_hat[0].clamp(0, 1) - codec.decode(data).float() / 255
            counts.append(proxy.counts(x, quality)[0].double().numpy())
            bits.append(8.0 * len(data))
            errors.append(float(error.square().mean()))
    shape = (len(images), len(QUALITIES))
    return np.reshape(counts, (*shape, -1)), np.reshape(bits, shape), np.reshape(errors, shape)


def ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort().astype(float)


def main() -> None:
    fetch("photo-corpus")
    with torch.no_grad():
        samples = {part: crops(part) for part in NUM_IMAGES}
        parts = {
            part: {chroma: measure(images, chroma) for chroma in CHROMA} for part, images in samples.items()
        }
    counts = np.concatenate(
        [counts.reshape(-1, counts.shape[-1]) for counts, _, _ in parts["train"].values()]
    )
    bits = np.concatenate([bits.ravel() for _, bits, _ in parts["train"].values()])
    fitted, *_ = np.linalg.lstsq(counts / bits[:, None], 1 - HEADER_BITS / bits, rcond=None)
    print("bits:", ", ".join(f"{value:.2f}" for value in fitted))
    pixels = np.array([image.shape[1] * image.shape[2] for image in samples["val"]])[:, None]
    print(
        "\n4:x:x  quality  |relative error of bpp|, mean  worst  rank correlation  PSNR dB, mean MSE  worst"
    )
    for chroma, (counts, bits, mse) in parts["val"].items():
        estimated = HEADER_BITS + counts @ fitted
        errors = np.abs(estimated / bits - 1)
        psnr = -10 * np.log10(np.stack((mse.mean(axis=0), mse.max(axis=0))))
        for index, quality in enumerate(QUALITIES):
            rank = np.corrcoef(ranks((estimated / pixels)[:, index]), ranks((bits / pixels)[:, index]))[0, 1]
            print(
                f"{chroma:>5}  {quality:7}  {errors[:, index].mean():27.3f}  {errors[:, index].max():5.3f}"
                f"  {rank:16.4f}  {psnr[0, index]:17.1f}  {psnr[1, index]:5.1f}"
            )


if __name__ == "__main__":
    main()
