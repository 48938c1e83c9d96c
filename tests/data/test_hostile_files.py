"""Datasets with FIFOs, devices, sparse files, endless paths and odd JSON: one sentence, or one skipped."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vcm.data import ClassFolderDataset, COCODataset, ImageFolderDataset, YOLOFolderDataset, read_image
from vcm.data.metadata import read_metadata
from vcm.data.reading import image_size
from vcm.errors import DatasetError, ImageError
from vcm.files import find_files, parse_json


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), "red").save(path)
    return path


def fifo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def sparse(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(20 << 30)
    return path


def too_deep(root):
    """Folders below `root` until a path is longer than the system takes, with an image in the last."""
    here = os.open(root, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("d" * 200, dir_fd=here)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("deep.png", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)


@pytest.mark.parametrize("kind", [fifo, sparse])
def test_one_image_that_is_no_file_is_one_image_error(tmp_path, kind):
    path = kind(tmp_path / "a.png")
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=r"a\.png.* (it is a FIFO|it has 21,474,836,480 bytes)"):
            read(path)
    with pytest.raises(OSError, match=r"it is a FIFO|more than the limit"):
        read_metadata(path, (6, 8))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "ann.json").write_text(json.dumps(content))
    data = COCODataset(tmp_path, tmp_path / "ann.json")
    assert data.settings()["num_images"] == 1
    with pytest.raises(ImageError):
        data.image(0)


def test_devices_are_refused():
    with pytest.raises(ImageError, match="it is a character device"):
        read_image("/dev/zero")
    with pytest.raises(DatasetError, match=r"/dev/zero cannot be read: it is a character device"):
        COCODataset("/tmp", "/dev/zero")


def test_a_path_may_be_text(tmp_path):
    save(tmp_path / "x.png")
    assert read_image(str(tmp_path / "x.png")).shape == (3, 6, 8)
    assert image_size(str(tmp_path / "x.png")) == (6, 8)
    with pytest.raises(ImageError, match=r"^x\.jpg: cannot be read: No such file or directory\.$"):
        read_image("x.jpg")


def test_a_path_that_is_too_long_skips_that_one_only(tmp_path):
    save(tmp_path / "set/a/a.png")
    save(tmp_path / "set/z/z.png")
    too_deep(tmp_path / "set/a")
    problems = []
    found = find_files(tmp_path / "set", {".png"}, problems)
    assert [path.name for path in found] == ["a.png", "z.png"]
    assert len(problems) == 1
    assert "skipped: File name too long" in problems[0]
    assert len(problems[0]) < 300
    for kind in (ImageFolderDataset, ClassFolderDataset):
        data = kind(tmp_path / "set")
        assert data.image_ids == ["a/a.png", "z/z.png"]
        assert data.problems == problems


@pytest.mark.parametrize("kind", [ImageFolderDataset, ClassFolderDataset])
def test_a_folder_whose_name_is_too_long_is_told(kind):
    with pytest.raises(DatasetError, match="there is no such folder"):
        kind("a" * 5000)
    with pytest.raises(DatasetError, match="images: there is no folder"):
        COCODataset("a" * 5000, "b")
    with pytest.raises(DatasetError, match="labels: there is no folder"):
        YOLOFolderDataset("a", "b" * 5000, "c")


def test_one_label_file_that_is_no_file_is_noted_and_skipped(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        save(tmp_path / "images" / name)
    fifo(tmp_path / "labels/a.txt")
    sparse(tmp_path / "labels/b.txt")
    (tmp_path / "labels/c.txt").write_text("0 .5 .5 .5 .5\n")
    (tmp_path / "names").write_text("cat\n")
    data = YOLOFolderDataset(tmp_path / "images", tmp_path / "labels", tmp_path / "names")
    assert [data.target(index) is None for index in range(3)] == [True, True, False]
    assert "a.png: its label file is skipped: it is a FIFO" in data.problems[0]
    assert "b.png: its label file is skipped: it has 21,474,836,480 bytes" in data.problems[1]


def test_annotations_that_are_a_fifo_or_sparse_are_told(tmp_path):
    for kind, reason in ((fifo, "it is a FIFO"), (sparse, "more than the limit")):
        with pytest.raises(DatasetError, match=rf"cannot be read: .*{reason}"):
            COCODataset(tmp_path, kind(tmp_path / f"{kind.__name__}.json"))


VALUES = [
    None,
    3,
    1.5,
    "x",
    [],
    {},
    [[]],
    float("nan"),
    float("inf"),
    10**400,
    True,
    -1,
    [1, 2, 3, 4],
    {"a": 1},
]
KEYS = [
    ("images", "id"), ("images", "file_name"), ("images", "width"), ("images", "height"),
    ("annotations", "image_id"), ("annotations", "category_id"), ("annotations", "bbox"),
    ("annotations", "area"), ("annotations", "iscrowd"), ("categories", "id"), ("categories", "name"),
]  # fmt: skip


@pytest.mark.parametrize(("part", "key"), KEYS)
def test_any_value_anywhere_is_a_data_set_or_one_sentence(tmp_path, part, key):
    save(tmp_path / "images/a.png")
    for value in VALUES:
        content = {
            "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
            "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "area": 4, "iscrowd": 0}],
            "categories": [{"id": 1, "name": "a"}],
        }
        content[part][0][key] = value
        for written in (content, {**content, part: value}, {**content, part: [value]}):
            (tmp_path / "ann.json").write_text(json.dumps(written))
            try:
                data = COCODataset(tmp_path / "images", tmp_path / "ann.json")
            except DatasetError as error:
                assert len(str(error)) < 1000
            else:
                assert np.isfinite(data.target(0).boxes.numpy()).all()
                assert np.isfinite(data.target(0).area.numpy()).all()


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "1" * 5000, "", "nul"])
def test_json_that_cannot_be_read_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_odd_names_are_printed_without_acting(tmp_path):
    save(tmp_path / "set/a\x1b[31m\n.png")
    data = ImageFolderDataset(tmp_path / "set")
    assert data.image_ids == ["a\\x1b[31m\\n.png"]
    Path(data.paths[0]).write_text("x")
    with pytest.raises(ImageError) as raised:
        data.image(0)
    assert "\x1b" not in str(raised.value)
