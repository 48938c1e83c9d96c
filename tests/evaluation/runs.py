"""Run folders written by hand, as other people's may be."""

import json

from PIL import Image

BASE = {
    **{"name": "a run", "kind": "detection", "task": {"name": "t"}, "data": {"num_images": 2}},
    **{"originals": {"pseudo": {"map": 1.0, "map_50": 1.0}}, "failures": [], "problems": [], "notes": []},
    **{"examples": [], "categories": ["cat"], "pseudo_score": 0.3},
}


def point(system, quality, bpp, accuracy, /, **changes):
    return {
        **{"system": system, "title": system.upper(), "quality": quality, "labels": "pseudo"},
        **{"num_images": 2, "num_bytes": 100, "num_pixels": 800, "bpp": bpp, "mean_bpp": bpp},
        **{"psnr": 30 + quality, "ms_ssim": 0.9, "accuracy": {"map": accuracy, "map_50": accuracy}},
        **{"intervals": {}, **changes},
    }


def line(system, factor=1.0, **changes):
    return [point(system, q, factor * 0.1 * 2**q, 0.1 + 0.1 * q, **changes) for q in range(4)]


def version(image, num_bytes=100, /, **changes):
    prediction = {"boxes": [[1, 1, 9, 9]], "labels": [0], "scores": [0.9]}
    size = {"height": 20, "width": 20}
    return {"picture": image, **size, "num_bytes": num_bytes, "prediction": prediction, **changes}


def write_run(folder, points, examples=None, **changes):
    """A run's results.json, and examples.json with "originals" and what is given."""
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({**BASE, "points": points, **changes}))
    if examples is not None:
        Image.new("RGB", (20, 20), "red").save(folder / "examples/o.png")
        versions = {"originals": version("examples/o.png", 0), **examples}
        (folder / "examples/examples.json").write_text(json.dumps({"1": versions}))
    return folder
