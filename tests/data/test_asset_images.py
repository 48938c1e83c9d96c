"""What the catalog's assets are made of."""

import json

import pytest

from vcm.data.assets import CATALOG
from vcm.data.assets.images import difference_hash, keep_photographs
from vcm.files import file_sha256


def test_catalog_has_what_the_readme_names():
    names = {asset.name for asset in CATALOG}
    assert names == {"yolov3-tiny", "yolov4-tiny", "mobilenet-v2", "coco-sample", "photo-corpus"}
    assert all(len(source.sha256) == 64 and source.num_bytes for asset in CATALOG for source in asset.sources)


def test_sample_is_what_the_catalog_says(asset_path, coco_images):
    assert len(coco_images) == 95
    content = json.loads(asset_path("coco-sample", "instances.json").read_text())
    assert len(content["images"]) == 65
    assert {a["image_id"] for a in content["annotations"]} <= {i["id"] for i in content["images"]}


def test_keep_photographs_drops_small_flat_and_near_duplicates(tmp_path):
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(1)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).resize((300, 300))
    noisy = np.clip(np.asarray(coarse).astype(int) + rng.integers(-20, 20, (300, 300, 3)), 0, 255).astype(
        np.uint8
    )
    Image.fromarray(noisy).save(tmp_path / "a.png")
    Image.fromarray(noisy).resize((280, 280)).save(tmp_path / "b.jpg", quality=90)
    Image.fromarray(noisy).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "c.png")
    Image.fromarray(noisy[:200]).save(tmp_path / "small.png")
    Image.new("RGB", (400, 400), "red").save(tmp_path / "flat.png")
    (tmp_path / "notes.jpg").write_text("no image")
    keep_photographs(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "c.png"]


def distance(fingerprint, others):
    return min((fingerprint ^ other).bit_count() for other in others)


@pytest.mark.slow
def test_photo_corpus_and_sample_are_disjoint(asset_path, coco_images):
    from PIL import Image

    corpus = [
        path for path in asset_path("photo-corpus", ".").rglob("*") if path.suffix.lower() in (".jpg", ".png")
    ]
    assert len(corpus) > 400
    assert not {file_sha256(path) for path in corpus} & {file_sha256(path) for path in coco_images}
    sample = [difference_hash(Image.open(path)) for path in coco_images]
    near = [path.name for path in corpus if distance(difference_hash(Image.open(path)), sample) <= 6]
    assert near == []
