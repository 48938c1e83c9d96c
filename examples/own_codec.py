"""A codec of your own, compared with JPEG by what yolov3-tiny still finds.

vcm fetch yolov3-tiny
python examples/own_codec.py FOLDER_OF_IMAGES
"""

import sys
import zlib

import torch
import torch.nn.functional as F
from torch import Tensor

import vcm
from vcm.codecs import Codec
from vcm.errors import BitstreamError
from vcm.types import QualityScale


class ThumbnailCodec(Codec):
    """Sends every `quality`-th pixel, compressed by zlib."""

    name, title, suffix = "thumbnail", "Thumbnail", ".thumb"
    quality_scale = QualityScale("step", 1, 64, higher_is_better=False, default=4)

    def __init__(self, quality: int = 4) -> None:
        self.quality = self.quality_scale.check(quality)

    def encode(self, image: Tensor) -> bytes:
        small = image[:, :: int(self.quality), :: int(self.quality)].contiguous()
        header = b"".join(side.to_bytes(2, "big") for side in image.shape[1:])
        return header + zlib.compress(small.numpy().tobytes())

    def decode(self, data: bytes) -> Tensor:
        height, width = (int.from_bytes(data[start : start + 2], "big") for start in (0, 2))
        shape = (3, -(-height // int(self.quality)), -(-width // int(self.quality)))
        try:
            pixels = bytearray(zlib.decompress(data[4:]))
            small = torch.frombuffer(pixels, dtype=torch.uint8).reshape(shape).float()
        except (zlib.error, RuntimeError, ValueError) as error:
            raise BitstreamError(f"The stream is damaged: {error}.") from error
        return F.interpolate(small[None], size=(height, width), mode="nearest")[0].to(torch.uint8)


def main(folder: str) -> None:
    task = vcm.load_task("yolov3_tiny")
    curves = {
        "thumbnail": [ThumbnailCodec(step) for step in (8, 4, 2, 1)],
        "jpeg": [vcm.codecs.JPEGCodec(quality) for quality in (10, 20, 40, 70)],
    }
    results = vcm.evaluate(curves, task, folder, bootstrap=0)
    for name in curves:
        for rate, accuracy in results.curve(name):
            print(f"{name}: {rate:.3f} bpp, mAP {100 * accuracy:.1f} %")
    print("BD-rate in %:", vcm.metrics.bd_rate(results.curve("jpeg"), results.curve("thumbnail")))


if __name__ == "__main__":
    main(*sys.argv[1:])
