"""The files that a YOLOTask is built from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vcm.errors import ArgumentError
from vcm.tasks import YOLOTask

AssetPath = Callable[[str, str], Path]


@pytest.fixture
def task(asset_path: AssetPath) -> YOLOTask:
    return YOLOTask(*(asset_path("yolov4-tiny", f"yolov4-tiny.{suffix}") for suffix in ("cfg", "weights")))


def test_settings_tell_which_files(asset_path: AssetPath, task: YOLOTask) -> None:
    settings = json.loads(json.dumps(task.settings()))
    for key, file in (("cfg_sha256", "yolov4-tiny.cfg"), ("weights_sha256", "yolov4-tiny.weights")):
        assert settings[key] == hashlib.sha256(asset_path("yolov4-tiny", file).read_bytes()).hexdigest()
    assert (settings["name"], settings["input_size"], settings["cut"]) == (
        "yolov4-tiny",
        [416, 416],
        "layer16",
    )
    torch.manual_seed(0)
    first, second = (YOLOTask(asset_path("yolov3-tiny", "yolov3-tiny.cfg")).settings() for _ in range(2))
    assert first["weights_sha256"] != second["weights_sha256"]


def test_names(asset_path: AssetPath, tmp_path: Path) -> None:
    cfg = asset_path("yolov3-tiny", "yolov3-tiny.cfg")
    names = asset_path("yolov3-tiny", "coco.names")
    assert YOLOTask(cfg, names=names).categories == tuple(names.read_text().split("\n")[:80])
    assert YOLOTask("yolov3-spp", names=["ship"]).heads[0].num_classes == 1
    with pytest.raises(ArgumentError, match="names must be 80 class names, as in the cfg; got '2 names'"):
        YOLOTask(cfg, names=["a", "b"])
    with pytest.raises(ArgumentError, match="readable text file"):
        YOLOTask(cfg, names=tmp_path / "missing.names")


def test_cfg_and_names_with_windows_marks(asset_path: AssetPath, tmp_path: Path) -> None:
    text = asset_path("yolov3-tiny", "yolov3-tiny.cfg").read_text()
    text = text.replace("filters=255", "filters=24").replace("classes=80", "classes=3")
    text = text.replace("width=416", "width=320").replace("height=416", "height=192")
    (tmp_path / "a.cfg").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(text.splitlines()).encode())
    (tmp_path / "a.names").write_bytes(b"\xef\xbb\xbfcat\r\nd\xc3\xb6g\r\nfish\r\n")
    task = YOLOTask(tmp_path / "a.cfg", names=tmp_path / "a.names")
    assert task.categories == ("cat", "dög", "fish")
    assert task.input_size == (192, 320)
