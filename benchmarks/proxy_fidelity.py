"""How well a proxy imitates its codec on images that no training saw, before and after fine-tuning.

For every model: PSNR between its images and the codec's, relative error and rank correlation of its rates
against real bytes, over QPs from 22 to 44, on the validation part of the photo corpus.

    python benchmarks/proxy_fidelity.py MODEL [MODEL …] [--limit N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch

from vcm.codecs import BPGCodec
from vcm.data import ImageFolderDataset
from vcm.data.assets import asset_file
from vcm.metrics.fidelity import ProxyFidelity
from vcm.modules import CodecLoop
from vcm.nn.proxy import Proxy, load_proxy

QUALITIES = (22, 26, 30, 34, 37, 40, 44)
LARGEST_SIDE = 768
"""Longer images are cut to their middle, so that the networks fit into memory."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Fidelity of proxies of BPG on held-out images.")
    parser.add_argument(
        "models", nargs="+", type=Path, help="model.safetensors of proxies, as vcm train wrote"
    )
    parser.add_argument("--limit", type=int, help="number of images; all of them by default")
    parser.add_argument("--json", type=Path, help="file that takes the figures")
    known = parser.parse_args()
    loop = CodecLoop(BPGCodec, workers=os.cpu_count())
    dataset = ImageFolderDataset(asset_file("photo-corpus", "."), part="val", limit=known.limit)
    print(f"{len(dataset)} images of the photo corpus that no training saw, {loop.codec(37)}")
    print(f"{'model':<44} {'QP':>7} {'PSNR':>6} {'rate error':>10} {'rank':>7}")
    figures: dict[str, Any] = {}
    proxies = {str(path): load_proxy(path, "bpg") for path in known.models}
    for name, rows in measure(proxies, loop, dataset).items():
        figures[name] = rows
        for quality, row in rows.items():
            line = f"{row['psnr']:>6.2f} {row['rate_error']:>10.3f} {row['rate_rank']:>7.4f}"
            print(f"{name:<44} {quality:>7} {line}")
    if known.json:
        known.json.write_text(json.dumps(figures, indent=1) + "\n")


@torch.inference_mode()
def measure(
    proxies: dict[str, Proxy], loop: CodecLoop, dataset: ImageFolderDataset
) -> dict[str, dict[str, dict[str, float]]]:
    """Figures of each proxy at each quality and over all of them."""
    keys = [*map(str, QUALITIES), "all"]
    metrics = {name: {key: ProxyFidelity() for key in keys} for name in proxies}
    for index in range(len(dataset)):
        sample = dataset[index]
        x = middle(sample.image)[None].float() / 255
        several = x.expand(len(QUALITIES), -1, -1, -1)
        coded = loop.start(several, list(QUALITIES), [sample.image_id] * len(QUALITIES))()
        for name, proxy in proxies.items():
            for row, place in enumerate(coded.kept.tolist()):
                quality = QUALITIES[place]
                output = proxy(x, quality)
                true = (coded.decoded[row : row + 1], coded.bpp[row : row + 1])
                for key in (str(quality), "all"):
                    metrics[name][key].update(output.x_hat, output.bpp, *true, quality)
    return {
        name: {
            key: {figure: round(float(value), 4) for figure, value in metric.compute().items()}
            for key, metric in by_quality.items()
        }
        for name, by_quality in metrics.items()
    }


def middle(image: torch.Tensor) -> torch.Tensor:
    """The middle of (3, H, W), at most `LARGEST_SIDE` pixels a side."""
    top, left = (max(side - LARGEST_SIDE, 0) // 2 for side in image.shape[1:])
    return image[:, top : top + LARGEST_SIDE, left : left + LARGEST_SIDE]


if __name__ == "__main__":
    main()
