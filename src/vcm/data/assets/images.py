"""Postprocessing of downloaded images: filter annotations, and select photographs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from PIL import Image

MIN_SIDE = 256
MIN_BPP = 0.5
MAX_DISTANCE = 6


def keep_sample_annotations(folder: Path) -> None:
    """Replace COCO's instances_val2017.json by an instances.json of the downloaded images only."""
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
    """Remove images that are too small, too heavily compressed, unreadable, or near-duplicates.

    Images are kept if the shorter side has at least 256 pixels, the file has more than 0.5 bits per pixel,
    and the difference hash (64 bits, of a 9×8 grey thumbnail) differs in more than 6 bits from all images
    kept before, in the order of their paths.
    """
    hashes: list[int] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        fingerprint = _photograph_hash(path)
        if fingerprint is None or any((fingerprint ^ other).bit_count() <= MAX_DISTANCE for other in hashes):
            path.unlink()
        else:
            hashes.append(fingerprint)


def difference_hash(image: Image.Image) -> int:
    """Return a 64-bit hash: which pixels of a 9×8 grey thumbnail are brighter than their right neighbours."""
    thumbnail = image.convert("L").resize((9, 8), Image.Resampling.BOX)
    pixels = thumbnail.tobytes()
    bits = 0
    for row in range(8):
        for column in range(8):
            bits = bits << 1 | (pixels[row * 9 + column] > pixels[row * 9 + column + 1])
    return bits


def _photograph_hash(path: Path) -> int | None:
    """Return the difference hash of an image, or None if it is not suitable for training."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # e.g. about damaged EXIF; only the pixels are used
            with Image.open(path) as image:
                width, height = image.size
                if min(width, height) < MIN_SIDE or path.stat().st_size * 8 / (width * height) <= MIN_BPP:
                    return None
                return difference_hash(image)
    except (OSError, ValueError, SyntaxError):  # raised by Pillow for unreadable files
        return None
