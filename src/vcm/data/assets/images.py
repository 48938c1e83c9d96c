"""What is done to fetched images before they count as an asset: fewer annotations, fewer and distinct
photographs.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from PIL import Image

MIN_SIDE = 256
MIN_BPP = 0.5
MAX_DISTANCE = 6


def keep_sample_annotations(folder: Path) -> None:
    """Replace COCO's whole instances_val2017.json by instances.json of the images at hand."""
    whole = folder / "instances_val2017.json"
    coco = json.loads(whole.read_text())
    there = {path.name for path in (folder / "images").iterdir()}
    images = [image for image in coco["images"] if image["file_name"] in there]
    ids = {image["id"] for image in images}
    kept = {
        "info": coco["info"],
        "licenses": coco["licenses"],
        "categories": coco["categories"],
        "images": images,
        "annotations": [a for a in coco["annotations"] if a["image_id"] in ids],
    }
    (folder / "instances.json").write_text(json.dumps(kept, separators=(",", ":")))
    whole.unlink()


def keep_photographs(folder: Path) -> None:
    """Remove what is too small, too heavily compressed, unreadable, or a near-duplicate of an earlier
    photograph.

    Kept: shorter side of at least 256 pixels, more than 0.5 bit a pixel on disk, and a difference hash (9×8
        grey
    thumbnail, 64 bits) more than 6 bits away from every photograph kept before, in the order of their paths.
    """
    hashes: list[int] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        fingerprint = _photograph_hash(path)
        if fingerprint is None or any((fingerprint ^ other).bit_count() <= MAX_DISTANCE for other in hashes):
            path.unlink()
        else:
            hashes.append(fingerprint)


def difference_hash(image: Image.Image) -> int:
    """64 bits, each whether a pixel of the 9×8 grey thumbnail is brighter than its right neighbour."""
    thumbnail = image.convert("L").resize((9, 8), Image.Resampling.BOX)
    pixels = thumbnail.tobytes()
    bits = 0
    for row in range(8):
        for column in range(8):
            bits = bits << 1 | (pixels[row * 9 + column] > pixels[row * 9 + column + 1])
    return bits


def _photograph_hash(path: Path) -> int | None:
    """The image's difference hash, or None where it is no photograph to train on."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # damaged EXIF and the like: the pixels are what counts
            with Image.open(path) as image:
                width, height = image.size
                if min(width, height) < MIN_SIDE or path.stat().st_size * 8 / (width * height) <= MIN_BPP:
                    return None
                return difference_hash(image)
    except (OSError, ValueError, SyntaxError):  # Pillow's own for what it cannot read
        return None
