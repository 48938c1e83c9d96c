"""Tiny models with random weights, small images, and a way to run commands on them."""

from __future__ import annotations

import json
from multiprocessing import forkserver, get_context

import numpy as np
import pytest
import torch
from PIL import Image

from vcm.categories import COCO_CATEGORIES
from vcm.cli.main import main
from vcm.nn.slimmable import FeatureMap, SlimmableFactorized, save_network

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


def _write_model(folder, name="model.safetensors", *, seed=0, categories=COCO_CATEGORIES, **changes):
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


@pytest.fixture(scope="session")
def forking():
    """Processes that this one starts are forked from a server that has imported what they need."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["vcm.cli.evaluate", "vcm.cli.models", "vcm.tasks", "pytest"])
    forkserver.ensure_running()
    return context


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return _write_model(tmp_path_factory.mktemp("model"))


def _write_image(path, height=48, width=60, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    """Three images in two folders."""
    for number, name in enumerate(("000000000139.jpg", "sub/7.png", "sub/photo.webp")):
        _write_image(tmp_path / "photos" / name, 40 + 7 * number, 64 - 5 * number, seed=number)
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


def _files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def write_model():
    """`write_model(folder, name, *, seed, categories, **notes)`; notes change what it says of its tasks."""
    return _write_model


@pytest.fixture
def write_image():
    """`write_image(path, height, width, seed)`: an image of noise."""
    return _write_image


@pytest.fixture
def files_below():
    """`files_below(folder)`: names of all files in it, sorted."""
    return _files_below


@pytest.fixture
def training(tmp_path, monkeypatch):
    """Arguments of a training of seconds, run in an empty folder."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 2)):
        (tmp_path / part).mkdir()
        for number in range(count):
            pixels = np.kron(rng.integers(0, 256, (5, 5, 3)), np.ones((16, 16, 1))).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    return [
        "train",
        "data=training_folders",
        "data.train.root=train",
        "data.val.root=val",
        "data.crop_size=64",
        "data.batch_size=4",
        "data.num_workers=0",
        "+task@tasks.classification=mobilenet_v2",
        "tasks.classification.weights=null",
        "tasks.classification.categories=[a,b]",
        "network.widths={classification: 4, reconstruction: 6}",
        "network.features={classification: {_target_: vcm.nn.slimmable.FeatureMap, channels: 32, stride: 8}}",
        "module.lmbda={classification: 0.001, reconstruction: 0.01}",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "name=small",
    ]
