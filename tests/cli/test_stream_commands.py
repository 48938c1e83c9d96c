"""What `vcm compress` and `vcm decompress` write."""

import json
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from pycocotools.coco import COCO

from vcm.categories import COCO_CATEGORIES, category_ids
from vcm.codecs.learned.container import read_stream
from vcm.nn.slimmable import FeatureMap, SlimmableFactorized, save_network


def test_images_for_viewing_come_back_in_their_size(vcm, photos, tmp_path, files_below):
    status, out, err = vcm("compress", photos, "--for", "viewing", "-o", tmp_path / "s")
    assert (status, err) == (0, "")
    names = files_below(tmp_path / "s")
    assert names == ["000000000139.jpg.vcm", "sub/7.png.vcm", "sub/photo.webp.vcm"]
    num_bytes = sum((tmp_path / "s" / name).stat().st_size for name in names)
    num_pixels = 40 * 64 + 47 * 59 + 54 * 54
    assert out == f"3 files, {num_bytes:,} bytes, {8 * num_bytes / num_pixels:.4f} bpp\n"
    status, out, err = vcm("decompress", tmp_path / "s", "-o", tmp_path / "d")
    assert (status, err) == (0, "")
    assert out == f"3 files, {num_bytes:,} bytes, {8 * num_bytes / num_pixels:.4f} bpp\n"
    assert files_below(tmp_path / "d") == ["000000000139.jpg.png", "sub/7.png.png", "sub/photo.webp.png"]
    with Image.open(tmp_path / "d/sub/7.png.png") as image:
        assert (image.format, image.size) == ("PNG", (59, 47))


def test_one_image_beside_itself_or_under_a_name(vcm, tmp_path, write_image):
    photo = write_image(tmp_path / "photo.jpg")
    assert vcm("compress", photo, "--for", "reconstruction")[1].startswith("1 file, ")
    assert vcm("compress", photo, "--for", "viewing", "-o", tmp_path / "new/mine.vcm")[0] == 0
    assert vcm("compress", photo, "--for", "viewing", "-o", tmp_path / "folder")[0] == 0
    streams = [tmp_path / name for name in ("photo.jpg.vcm", "new/mine.vcm", "folder/photo.jpg.vcm")]
    assert len({stream.read_bytes() for stream in streams}) == 1
    assert vcm("decompress", streams[0])[0] == 0
    assert vcm("decompress", streams[0], "-o", tmp_path / "again.png")[0] == 0
    assert (tmp_path / "photo.jpg.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_predictions_are_coco_results(vcm, photos, tmp_path, files_below):
    vcm("compress", photos, "--for", "detection", "-o", tmp_path / "s")
    status, _, err = vcm("decompress", tmp_path / "s", "-o", tmp_path / "d", "--original", photos)
    assert (status, err) == (0, "")
    assert files_below(tmp_path / "d") == [
        "000000000139.jpg.png", "detections.json", "sub/7.png.png", "sub/photo.webp.png",
    ]  # fmt: skip
    results = json.loads((tmp_path / "d/detections.json").read_text())
    assert {entry["image_id"] for entry in results} == {139, 7, "photo"}
    assert {entry["category_id"] for entry in results} <= set(category_ids(COCO_CATEGORIES))
    numbered = [entry for entry in results if entry["image_id"] != "photo"]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": 139, "height": 40, "width": 64}, {"id": 7, "height": 47, "width": 59}],
        "categories": [{"id": number} for number in range(1, 91)],
    }
    truth.createIndex()
    loaded = truth.loadRes(numbered)
    assert len(loaded.getAnnIds(imgIds=[139])) == sum(entry["image_id"] == 139 for entry in results)
    for entry in numbered:
        x, y, width, height = entry["bbox"]
        assert 0 <= x <= x + width <= 64.001
        assert 0 <= y <= y + height <= 47.001
    with Image.open(tmp_path / "d/000000000139.jpg.png") as image:
        assert image.size == (64, 40)


def test_coco_numbers_its_categories_with_gaps():
    numbers = dict(zip(COCO_CATEGORIES, category_ids(COCO_CATEGORIES), strict=True))
    assert [numbers[name] for name in ("person", "stop sign", "dining table", "toothbrush")] == [
        1,
        13,
        67,
        90,
    ]
    darknet = ["motorbike" if name == "motorcycle" else name for name in reversed(COCO_CATEGORIES)]
    assert category_ids(darknet) == sorted(numbers.values(), reverse=True)
    assert category_ids(["person", "stop sign"]) == [1, 2]


def test_boxes_are_drawn_from_a_score_on(vcm, tmp_path, write_image):
    photo = write_image(tmp_path / "photo.png")
    vcm("compress", photo, "--for", "detection", "-o", tmp_path / "s.vcm")
    arguments = ("decompress", tmp_path / "s.vcm", "--original", photo, "--min-score")
    assert vcm(*arguments, 1, "-o", tmp_path / "none.json")[0] == 0
    assert vcm(*arguments, 0, "-o", tmp_path / "all.png")[0] == 0
    assert json.loads((tmp_path / "none.json").read_text()) == json.loads((tmp_path / "all.json").read_text())
    none, every, original = (
        np.asarray(Image.open(path)) for path in (tmp_path / "none.png", tmp_path / "all.png", photo)
    )
    assert (none == original).all()
    assert (every != original).any()
    assert vcm("decompress", tmp_path / "s.vcm", "--min-score", 1)[0] == 0
    canvas = np.asarray(Image.open(tmp_path / "s.png"))
    assert canvas.shape == original.shape
    assert (canvas == canvas[0, 0]).all()


def test_other_categories_count_from_one(vcm, tmp_path, write_model, write_image):
    model = write_model(tmp_path, categories=["cat", "mole"])
    photo = write_image(tmp_path / "0x1f.png")
    vcm("compress", photo, "--for", "detection", use=model)
    assert vcm("decompress", tmp_path / "0x1f.png.vcm", use=model)[0] == 0
    results = json.loads((tmp_path / "0x1f.png.json").read_text())
    assert {entry["category_id"] for entry in results} == {1, 2}
    assert {entry["image_id"] for entry in results} == {"0x1f"}


def test_classes_by_probability(vcm, tmp_path, write_image):
    photo = write_image(tmp_path / "photo.png")
    vcm("compress", photo, "--for", "classification")
    assert vcm("decompress", tmp_path / "photo.png.vcm")[0] == 0
    (entry,) = json.loads((tmp_path / "photo.png.json").read_text())
    assert entry["image_id"] == "photo"
    assert (
        len({answer["name"] for answer in entry["classes"]} & {"cat", "dog", "horse", "bird", "cow", "sheep"})
        == 5
    )
    probabilities = [answer["probability"] for answer in entry["classes"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 5 / 6 <= sum(probabilities) <= 1


def test_streams_of_all_kinds_in_one_call(vcm, photos, tmp_path, files_below):
    for purpose, name in (("viewing", "7.png"), ("detection", "photo.webp"), ("classification", "7.png")):
        vcm("compress", photos / "sub" / name, "--for", purpose, "-o", tmp_path / f"s/{purpose}.vcm")
    status, out, err = vcm("decompress", *sorted((tmp_path / "s").iterdir()), "-o", tmp_path / "d")
    assert (status, err) == (0, "")
    assert out.startswith("3 files, ")
    assert files_below(tmp_path / "d") == [
        "classifications.json", "detection.png", "detections.json", "viewing.png",
    ]  # fmt: skip


# --- a real detector ------------------------------------------------------------------------------------


def test_yolov3_tiny_draws_on_its_original(vcm, asset_path, coco_images, tmp_path):
    asset_path("yolov3-tiny", "yolov3-tiny.weights")
    torch.manual_seed(0)
    network = SlimmableFactorized(
        {"detection": 4, "reconstruction": 8}, features={"detection": FeatureMap(128, 8)}
    )
    plan = yaml.safe_load((Path(__file__).parents[2] / "conf/task/yolov3_tiny.yaml").read_text())
    plan["score_threshold"] = 1e-9  # random features: whatever the detector makes of them
    save_network(network, tmp_path / "m.safetensors", tasks=json.dumps({"detection": plan}))
    photo = coco_images[0]
    stream = tmp_path / "photo.vcm"
    assert vcm("compress", photo, "--for", "detection", "-o", stream, use=tmp_path / "m.safetensors")[0] == 0
    assert read_stream(stream.read_bytes()).header.coded_size == (416, 416)
    status, _, err = vcm("decompress", stream, "--original", photo, use=tmp_path / "m.safetensors")
    assert (status, err) == (0, "")
    with Image.open(photo) as original, Image.open(tmp_path / "photo.png") as drawn:
        assert drawn.size == original.size
    json.loads((tmp_path / "photo.json").read_text())
