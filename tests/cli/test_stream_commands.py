import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools.coco import COCO

from vcm.categories import COCO_CATEGORIES, category_ids
from vcm.cli.files import Outputs
from vcm.cli.main import main
from vcm.codecs.learned.container import Header, read_stream, write_stream
from vcm.nn.slimmable import FeatureMap, SlimmableFactorized, save_network
from vcm.nn.slimmable.files import read_notes

CFG = """
[net]
width=64
height=64
channels=3
[convolutional]
filters=5
size=8
stride=8
activation=linear
[convolutional]
filters={filters}
size=1
activation=linear
[yolo]
mask=0
anchors=20,20
classes={classes}
num=1
"""
CLASSES = ["cat", "dog", "horse", "bird", "cow", "sheep"]


def write_model(folder, name="model.safetensors", *, seed=0, categories=COCO_CATEGORIES, **changes):
    """A model with three widths and random weights, whose detector finds something everywhere."""
    torch.manual_seed(seed)
    network = SlimmableFactorized(
        {"detection": 6, "classification": 8, "reconstruction": 10},
        features={"detection": FeatureMap(5, 8), "classification": FeatureMap(32, 8)},
    )
    with torch.no_grad():
        for conv in network.g_a.convs:
            conv.weight *= 4
    cfg = folder / f"{len(categories)}.cfg"
    cfg.write_text(CFG.format(filters=len(categories) + 5, classes=len(categories)))
    notes = {
        "detection": {
            "_target_": "vcm.tasks.YOLOTask",
            "cfg": str(cfg),
            "names": list(categories),
            "cut": "layer0",
            "score_threshold": 0.01,
        },
        "classification": {
            "_target_": "vcm.tasks.ClassificationTask",
            "architecture": "mobilenet_v2",
            "weights": None,
            "categories": CLASSES,
            "crop_size": 64,
        },
        **changes,
    }
    save_network(network, folder / name, tasks=json.dumps(notes))
    return folder / name


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def write_picture(path, height=48, width=60, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Three pictures in two folders."""
    for number, name in enumerate(("000000000139.jpg", "sub/7.png", "sub/photo.webp")):
        write_picture(tmp_path / "photos" / name, 40 + 7 * number, 64 - 5 * number, seed=number)
    return tmp_path / "photos"


@pytest.fixture
def vcm(capsys, model):
    """Run a command: its status, what it printed, and what it told."""

    def run(command, *arguments, use=model):
        options = ["--model", str(use)] if command != "info" else []
        torch.manual_seed(0)  # the detector's random weights
        status = main([command, *map(str, arguments), *options])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- what comes out ---------------------------------------------------------------------------------------


def test_pictures_for_viewing_come_back_in_their_size(vcm, photos, tmp_path):
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


def test_one_picture_beside_itself_or_under_a_name(vcm, tmp_path):
    photo = write_picture(tmp_path / "photo.jpg")
    assert vcm("compress", photo, "--for", "reconstruction")[1].startswith("1 file, ")
    assert vcm("compress", photo, "--for", "viewing", "-o", tmp_path / "new/mine.vcm")[0] == 0
    assert vcm("compress", photo, "--for", "viewing", "-o", tmp_path / "folder")[0] == 0
    streams = [tmp_path / name for name in ("photo.jpg.vcm", "new/mine.vcm", "folder/photo.jpg.vcm")]
    assert len({stream.read_bytes() for stream in streams}) == 1
    assert vcm("decompress", streams[0])[0] == 0
    assert vcm("decompress", streams[0], "-o", tmp_path / "again.png")[0] == 0
    assert (tmp_path / "photo.jpg.png").read_bytes() == (tmp_path / "again.png").read_bytes()


def test_predictions_are_coco_results(vcm, photos, tmp_path):
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


def test_boxes_are_drawn_from_a_score_on(vcm, tmp_path):
    photo = write_picture(tmp_path / "photo.png")
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


def test_other_categories_count_from_one(vcm, tmp_path):
    model = write_model(tmp_path, categories=["cat", "mole"])
    photo = write_picture(tmp_path / "0x1f.png")
    vcm("compress", photo, "--for", "detection", use=model)
    assert vcm("decompress", tmp_path / "0x1f.png.vcm", use=model)[0] == 0
    results = json.loads((tmp_path / "0x1f.png.json").read_text())
    assert {entry["category_id"] for entry in results} == {1, 2}
    assert {entry["image_id"] for entry in results} == {"0x1f"}


def test_classes_by_probability(vcm, tmp_path):
    photo = write_picture(tmp_path / "photo.png")
    vcm("compress", photo, "--for", "classification")
    assert vcm("decompress", tmp_path / "photo.png.vcm")[0] == 0
    (entry,) = json.loads((tmp_path / "photo.png.json").read_text())
    assert entry["image_id"] == "photo"
    assert len({answer["name"] for answer in entry["classes"]} & set(CLASSES)) == 5
    probabilities = [answer["probability"] for answer in entry["classes"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert 5 / 6 <= sum(probabilities) <= 1


def test_streams_of_all_kinds_in_one_call(vcm, photos, tmp_path):
    for purpose, name in (("viewing", "7.png"), ("detection", "photo.webp"), ("classification", "7.png")):
        vcm("compress", photos / "sub" / name, "--for", purpose, "-o", tmp_path / f"s/{purpose}.vcm")
    status, out, err = vcm("decompress", *sorted((tmp_path / "s").iterdir()), "-o", tmp_path / "d")
    assert (status, err) == (0, "")
    assert out.startswith("3 files, ")
    assert files_below(tmp_path / "d") == [
        "classifications.json", "detection.png", "detections.json", "viewing.png",
    ]  # fmt: skip


# --- what is left out -------------------------------------------------------------------------------------


def test_one_bad_picture_does_not_stop_the_rest(vcm, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"no picture")
    (photos / "empty.png").touch()
    status, out, err = vcm(
        "compress", photos, tmp_path / "nope.jpg", "--for", "viewing", "-o", tmp_path / "s"
    )
    assert status == 1
    assert out.startswith("3 files, ")
    assert out.endswith("; 3 left out\n")
    assert f"{tmp_path / 'nope.jpg'}: cannot be read: No such file" in err
    assert f"{photos / 'bad.jpg'}: is not a picture" in err
    assert f"{photos / 'empty.png'}: the file is empty" in err
    assert len(files_below(tmp_path / "s")) == 3


def test_one_bad_stream_does_not_stop_the_rest(vcm, photos, tmp_path):
    other = write_model(tmp_path, "other.safetensors", seed=1)
    folder = tmp_path / "s"
    vcm("compress", photos, "--for", "viewing", "-o", folder)
    vcm("compress", photos / "sub/7.png", "--for", "viewing", "-o", folder / "other.vcm", use=other)
    data = (folder / "sub/7.png.vcm").read_bytes()
    (folder / "cut.vcm").write_bytes(data[:-9])
    (folder / "flipped.vcm").write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    (folder / "photo.vcm").write_bytes((photos / "000000000139.jpg").read_bytes())
    (folder / "empty.vcm").touch()
    status, out, err = vcm("decompress", folder, "-o", tmp_path / "d")
    assert status == 1
    assert out.startswith("3 files, ")
    told = {line.split(": ")[2].rpartition("/")[2]: line for line in err.splitlines()}
    assert set(told) == {"cut.vcm", "flipped.vcm", "photo.vcm", "empty.vcm", "other.vcm"}
    assert "cut short" in told["cut.vcm"]
    assert "damaged" in told["flipped.vcm"]
    assert "but a JPEG file" in told["photo.vcm"]
    assert "empty" in told["empty.vcm"]
    assert "of another model" in told["other.vcm"]
    assert len(files_below(tmp_path / "d")) == 3


def test_a_model_without_that_width(vcm, tmp_path):
    torch.manual_seed(0)
    save_network(SlimmableFactorized({"reconstruction": 4}), tmp_path / "small.safetensors")
    photo = write_picture(tmp_path / "photo.png")
    status, _, err = vcm("compress", photo, "--for", "detection", use=tmp_path / "small.safetensors")
    assert status == 2
    assert "has a width for: viewing; got 'detection'" in err
    vcm("compress", photo, "--for", "detection")
    status, _, err = vcm("decompress", tmp_path / "photo.png.vcm", use=tmp_path / "small.safetensors")
    assert status == 1
    assert "for detection, for which" in err
    assert files_below(tmp_path).count("photo.png.png") == 0


def test_nothing_is_overwritten_unasked(vcm, tmp_path):
    photo = write_picture(tmp_path / "photo.png")
    stream = tmp_path / "photo.png.vcm"
    stream.write_bytes(b"precious")
    status, out, err = vcm("compress", photo, "--for", "viewing")
    assert (status, out) == (1, "0 files, 0 bytes; 1 left out\n")
    assert "exists already; --overwrite replaces it" in err
    assert stream.read_bytes() == b"precious"
    assert vcm("compress", photo, "--for", "viewing", "--overwrite")[0] == 0
    read_stream(stream.read_bytes())
    for path in (photo, tmp_path / "photo.png.vcm"):
        status, _, err = vcm("compress", path, "--for", "viewing", "--overwrite", "-o", path)
        assert status == 1
        assert "is read by this command" in err
    status, _, err = vcm("decompress", stream, "--overwrite", "--original", photo, "-o", photo)
    assert status == 1
    assert "is read by this command" in err


def test_existing_predictions_stay(vcm, photos, tmp_path):
    vcm("compress", photos, "--for", "detection")
    (photos / "detections.json").write_text("mine")
    status, out, err = vcm("decompress", photos)
    assert (status, out) == (1, "0 files, 0 bytes; 3 left out\n")
    assert err.count("detections.json exists already") == 3
    assert (photos / "detections.json").read_text() == "mine"
    assert vcm("decompress", photos, "--overwrite")[0] == 0
    json.loads((photos / "detections.json").read_text())


def test_two_inputs_for_one_output(vcm, photos, tmp_path):
    write_picture(tmp_path / "more/7.png")
    pictures = (photos / "sub/7.png", tmp_path / "more/7.png")
    status, out, err = vcm("compress", *pictures, "--for", "detection", "-o", tmp_path / "s")
    assert status == 1
    assert out.startswith("1 file, ")
    assert f"{tmp_path / 's/7.png.vcm'} comes of {photos / 'sub/7.png'} already" in err
    for number, picture in enumerate(pictures):
        vcm("compress", picture, "--for", "detection", "-o", tmp_path / f"t/{number}")
    status, out, err = vcm("decompress", tmp_path / "t", "-o", tmp_path / "d")
    assert status == 1
    assert out.startswith("1 file, ")
    assert "has a picture 7 already" in err


def test_originals_that_do_not_fit(vcm, photos, tmp_path):
    vcm("compress", photos, "--for", "detection", "-o", tmp_path / "s")
    write_picture(tmp_path / "o/000000000139.jpg", 10, 10)
    write_picture(tmp_path / "o/sub/photo.webp", 54, 54)
    status, out, err = vcm("decompress", tmp_path / "s", "-o", tmp_path / "d", "--original", tmp_path / "o")
    assert status == 1
    assert out.startswith("1 file, ")
    assert "of 64 × 40 pixels" in err
    assert "7.png: cannot be read: No such file" in err
    for original in (tmp_path / "none", photos / "sub/7.png"):
        status, _, err = vcm("decompress", tmp_path / "s", "--original", original)
        assert status == 2
        assert "--original must be a folder of pictures" in err


# --- what stops everything --------------------------------------------------------------------------------


def test_nothing_to_begin_with(vcm, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = vcm("compress", tmp_path / "empty", tmp_path / "nope", "--for", "viewing")
    assert status == 2
    assert "there are no pictures in this folder" in err
    assert "nope: cannot be read: No such file" in err
    status, _, err = vcm("decompress", tmp_path / "empty")
    assert status == 2
    assert "there are no streams in this folder" in err


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_wrong_settings(vcm, model, tmp_path, command):
    photo = write_picture(tmp_path / "photo.png")
    options = ["--for", "viewing"] if command == "compress" else []
    for use in (tmp_path / "none.safetensors", photo, tmp_path):
        status, _, err = vcm(command, photo, *options, use=use)
        assert status == 2
        assert "cannot be read as a model" in err
    status, _, err = vcm(command, photo, *options, "--device", "tpu")
    assert status == 2
    assert "device must be" in err
    if command == "compress":
        status, _, err = vcm(command, photo, "--for", "segmentation")
        assert "a width for: detection, classification, viewing; got 'segmentation'" in err
    else:
        status, _, err = vcm(command, photo, "--min-score", 3)
        assert status == 2
        assert "--min-score must be a number from 0 to 1" in err
        status, _, err = vcm(command, photo, "-o", tmp_path / "out.jpg")
        assert status == 2
        assert "ends in .png or .json" in err


def test_a_picture_is_not_named_json(vcm, tmp_path):
    vcm("compress", write_picture(tmp_path / "photo.png"), "--for", "viewing")
    status, _, err = vcm("decompress", tmp_path / "photo.png.vcm", "-o", tmp_path / "photo.json")
    assert status == 1
    assert "name it .png" in err


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (None, "does not say which network its width for detection serves"),
        ({"_target_": "os.system", "command": "true"}, "not vcm's own"),
        ({"_target_": "vcm.tasks.YOLOTask", "cfg": "none.cfg"}, "none.cfg"),
        ({"_target_": "vcm.tasks.YOLOTask", "cfg": "${asset:nothing,a}"}, "no asset 'nothing'"),
        ({"_target_": "vcm.tasks.YOLOTask", "cfg": "yolov3", "colour": 1}, "colour"),
        (
            {"_target_": "vcm.tasks.ClassificationTask", "architecture": "resnet50", "weights": None},
            "task.cut",
        ),
    ],
)
def test_a_task_that_cannot_be_built(vcm, tmp_path, plan, message):
    model = write_model(tmp_path, detection=plan)
    status, _, err = vcm("compress", write_picture(tmp_path / "a.png"), "--for", "detection", use=model)
    assert status == 2
    assert message in err


def test_missing_weights_tell_how_to_fetch_them(vcm, tmp_path, monkeypatch):
    monkeypatch.setenv("VCM_CACHE", str(tmp_path / "cache"))
    plan = yaml.safe_load((Path(__file__).parents[2] / "conf/task/yolov3_tiny.yaml").read_text())
    model = write_model(tmp_path, detection=plan)
    status, _, err = vcm("compress", write_picture(tmp_path / "a.png"), "--for", "detection", use=model)
    assert status == 2
    assert "vcm fetch yolov3-tiny" in err


def test_a_damaged_note(vcm, tmp_path):
    network = SlimmableFactorized({"detection": 4}, features={"detection": FeatureMap(5, 8)})
    save_network(network, tmp_path / "m.safetensors", tasks="{", made="today")
    photo = write_picture(tmp_path / "a.png")
    status, _, err = vcm("compress", photo, "--for", "detection", use=tmp_path / "m.safetensors")
    assert status == 2
    assert "note of tasks is damaged" in err
    assert read_notes(tmp_path / "m.safetensors") == {"tasks": "{", "made": "today"}


# --- places that take no files ----------------------------------------------------------------------------


def test_a_full_disk_leaves_no_half_file(vcm, tmp_path, monkeypatch):
    photo = write_picture(tmp_path / "photo.png")

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = Path.open

    def open_file(path, mode="r", *rest, **more):
        file = opened(path, mode, *rest, **more)
        if mode != "wb":
            return file
        file.close()
        return Full()

    monkeypatch.setattr(Path, "open", open_file)
    status, _, err = vcm("compress", photo, "--for", "viewing")
    assert status == 1
    assert "photo.png.vcm cannot be written: No space left on device." in err
    assert files_below(tmp_path) == ["photo.png"]


def test_an_output_folder_that_is_a_file(vcm, tmp_path):
    photo = write_picture(tmp_path / "photo.png")
    (tmp_path / "file").touch()
    for command, given in (("compress", photo), ("compress", tmp_path)):
        status, _, err = vcm(command, given, "--for", "viewing", "-o", tmp_path / "file/below")
        assert status == 1
        assert f"{tmp_path / 'file'} is a file" in err


def test_a_folder_that_takes_no_files(vcm, tmp_path, monkeypatch):
    photo = write_picture(tmp_path / "photo.png")
    monkeypatch.setattr(os, "access", lambda *_: False)
    status, _, err = vcm("compress", photo, "--for", "viewing", "-o", tmp_path / "new")
    assert status == 1
    assert f"no files can be made in {tmp_path}" in err
    assert not (tmp_path / "new").exists()


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), Outputs([], overwrite=True).write(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert files_below(tmp_path) == ["a.json"]


# --- vcm info ---------------------------------------------------------------------------------------------


def write_small_stream(path):
    header = Header("detection", b"\x01\x02\x03\x04", 43, (374, 500), (416, 416))
    path.write_bytes(write_stream(header, [b"12345678"]))
    return path


def test_info_describes_a_stream(vcm, tmp_path):
    stream = write_small_stream(tmp_path / "a.vcm")
    status, out, err = vcm("info", stream)
    assert (status, err) == (0, "")
    for part in ("detection", "500 × 374", "416 × 416", "43", "01020304", "rate         0.0014 bpp"):
        assert part in out
    status, out, _ = vcm("info", stream, "--json")
    (entry,) = json.loads(out)
    size = stream.stat().st_size
    assert entry == {
        "file": str(stream), "purpose": "detection", "fingerprint": "01020304", "channels": 43,
        "height": 374, "width": 500, "coded_height": 416, "coded_width": 416,
        "num_bytes": size, "header_bytes": size - 8, "bpp": 8 * size / (374 * 500),
    }  # fmt: skip


def test_info_says_what_is_no_stream(vcm, photos, tmp_path):
    stream = write_small_stream(tmp_path / "a.vcm")
    cut = tmp_path / "cut.vcm"
    cut.write_bytes(stream.read_bytes()[:-1])
    others = (photos / "000000000139.jpg", cut, tmp_path / "none", photos)
    status, out, err = vcm("info", *others, stream)
    assert status == 1
    assert out.startswith(str(stream))
    told = err.splitlines()
    parts = ("but a JPEG file", "cut short", "No such file", "directory")
    assert len(told) == len(parts)
    assert all(part in line for part, line in zip(parts, told, strict=True))
    entries = json.loads(vcm("info", *others, stream, "--json")[1])
    assert ["error" in entry for entry in entries] == [True] * 4 + [False]


def test_info_answers_at_once_without_torch(tmp_path):
    stream = write_small_stream(tmp_path / "a.vcm")
    code = (
        f"import sys\nfrom vcm.cli.main import main\nassert main(['info', {str(stream)!r}]) == 0\n"
        "assert not {'torch', 'numpy', 'compressai'} & set(sys.modules)"
    )

    def seconds(code):
        def once():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - start

        return min(once() for _ in range(5))

    assert seconds(code) - seconds("pass") < 0.5


# --- a real detector --------------------------------------------------------------------------------------


def test_yolov3_tiny_draws_on_its_original(vcm, asset_path, coco_pictures, tmp_path):
    asset_path("yolov3-tiny", "yolov3-tiny.weights")
    torch.manual_seed(0)
    network = SlimmableFactorized(
        {"detection": 4, "reconstruction": 8}, features={"detection": FeatureMap(128, 8)}
    )
    plan = yaml.safe_load((Path(__file__).parents[2] / "conf/task/yolov3_tiny.yaml").read_text())
    plan["score_threshold"] = 1e-9  # random features: whatever the detector makes of them
    save_network(network, tmp_path / "m.safetensors", tasks=json.dumps({"detection": plan}))
    photo = coco_pictures[0]
    stream = tmp_path / "photo.vcm"
    assert vcm("compress", photo, "--for", "detection", "-o", stream, use=tmp_path / "m.safetensors")[0] == 0
    assert read_stream(stream.read_bytes()).header.coded_size == (416, 416)
    status, _, err = vcm("decompress", stream, "--original", photo, use=tmp_path / "m.safetensors")
    assert (status, err) == (0, "")
    with Image.open(photo) as original, Image.open(tmp_path / "photo.png") as drawn:
        assert drawn.size == original.size
    json.loads((tmp_path / "photo.json").read_text())
