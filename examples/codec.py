"""Encode an image with BPG and JPEG, and print each codec's rate and distortion.

python examples/codec.py photo.jpg
"""

import sys

import vcm


def main(path: str) -> None:
    image = vcm.data.read_image(path)  # (3, H, W) uint8 RGB
    height, width = image.shape[1:]
    for codec in (vcm.codecs.BPGCodec(37), vcm.codecs.JPEGCodec(40)):
        stream = codec.encode(image)
        decoded = codec.decode(stream)
        rate, psnr = vcm.metrics.Rate(), vcm.metrics.PSNR()
        rate.update(len(stream), height, width)
        psnr.update(decoded, image)
        print(f"{codec.title}: {rate.compute()['bpp']:.3f} bpp, {psnr.compute():.2f} dB")


if __name__ == "__main__":
    main(*sys.argv[1:])
