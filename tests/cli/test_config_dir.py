"""Configs of a user's own, beside vcm's."""

import json
from pathlib import Path

import pytest

from vcm.cli.main import main

CODEC = """# @package codecs
mine:
  codec: {_target_: mine_package.Mine, quality_table: 3}
  qualities: [10, 30]
"""
EXPERIMENT = """# @package _global_
defaults:
  - override /codec: [jpeg, mine]
  - override /task: mobilenet_v2
  - override /data: images

name: mine
task: {weights: null, categories: [a, b]}
codecs: {jpeg: {qualities: [20]}}
"""
PACKAGE = """
from vcm.codecs import JPEGCodec


class Mine(JPEGCodec):
    name = "mine"

    def __init__(self, quality=50, *, quality_table=0):
        super().__init__(quality)
        self.quality_table = quality_table
"""


@pytest.fixture
def configs(tmp_path, monkeypatch, write_image):
    for name, text in (("codec/mine", CODEC), ("experiment/evaluate/mine", EXPERIMENT)):
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "mine_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "photos/a.png", 64, 80)
    return ["--config-dir", "configs"]


def test_a_codec_and_an_experiment_of_a_users_own(configs, capsys):
    arguments = ["data.test.root=photos", "bootstrap=0"]
    assert main(["evaluate", *configs, "experiment=mine", *arguments]) == 0, capsys.readouterr().err
    with Path("runs/mine/results.json").open() as file:
        points = json.load(file)["points"]
    assert {(point["system"], point["quality"]) for point in points} == {
        ("jpeg", 20),
        ("mine", 10),
        ("mine", 30),
    }


def test_a_folder_that_is_not_there(configs, capsys):
    assert main(["evaluate", "--config-dir", "nowhere", "experiment=mine"]) == 2
    assert "nowhere" in capsys.readouterr().err
