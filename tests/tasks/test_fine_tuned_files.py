"""Files of fine-tuned tasks, as nobody should trust them, and networks whose outputs are not finite."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vcm.errors import WeightsError
from vcm.tasks import ClassificationTask, TorchvisionDetectionTask, YOLOTask, fine_tuned
from vcm.tasks.fine_tuned import save_fine_tuned

CFG = """
[net]
width=32
height=32
[convolutional]
batch_normalize=1
filters=4
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=6
size=1
activation=linear
[yolo]
mask=0
anchors=10,13
classes=1
num=1
"""


@pytest.fixture
def task(tmp_path: Path) -> YOLOTask:
    torch.manual_seed(0)
    (tmp_path / "small.cfg").write_text(CFG)
    return YOLOTask(tmp_path / "small.cfg", names=["thing"])


@pytest.fixture
def path(task: YOLOTask, tmp_path: Path) -> Path:
    save_fine_tuned(task, tmp_path / "task.safetensors")
    return tmp_path / "task.safetensors"


def plan(path: Path) -> dict[str, object]:
    with safe_open(path, framework="pt") as file:
        found: dict[str, object] = json.loads(file.metadata()["vcm"])
    return found


def test_a_file_without_its_sha256_still_loads(task: YOLOTask, path: Path) -> None:
    save_file(load_file(path), path, {"vcm": json.dumps(plan(path))})
    assert fine_tuned(task, path) is task


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(task: YOLOTask, path: Path, value: float) -> None:
    state = load_file(path)
    before = task.network.layers[1].conv.weight.clone()  # type: ignore[union-attr]
    state["network.layers.1.conv.weight"].view(-1)[3] = value
    save_file(state, path, {"vcm": json.dumps(plan(path))})
    with pytest.raises(WeightsError, match=r"layers\.1\.conv\.weight must be finite numbers"):
        fine_tuned(task, path)
    assert torch.equal(task.network.layers[1].conv.weight, before)  # type: ignore[union-attr,arg-type]


def test_descriptions_that_are_absurd_are_one_error(task: YOLOTask, path: Path) -> None:
    state, good = load_file(path), plan(path)
    deep = "[" * 100_000 + "]" * 100_000
    for text in (
        "[]", "7", "{}", deep, json.dumps({**good, "settings": 3}), json.dumps({"network": good["network"]}),
        json.dumps({**good, "settings": {"categories": "@"}}).replace('"@"', deep),
        json.dumps({**good, "settings": {"name": "@"}}).replace('"@"', "[" * 400 + "]" * 400),
    ):  # fmt: skip
        save_file(state, path, {"vcm": text})
        with pytest.raises(WeightsError) as caught:
            fine_tuned(task, path)
        assert len(str(caught.value)) < 2000


def test_a_fifo_is_refused(task: YOLOTask, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(WeightsError, match="it is a FIFO"):
        fine_tuned(task, tmp_path / "fifo")


def test_a_detector_whose_outputs_are_not_finite_finds_an_error_and_not_nothing(task: YOLOTask) -> None:
    with torch.no_grad():
        task.network.layers[1].conv.weight.fill_(3e38)  # type: ignore[union-attr,operator]
    with pytest.raises(WeightsError, match="small returned NaN or infinite values"):
        task.predict(torch.rand(1, 3, 32, 32))


def test_the_other_tasks_do_so_too() -> None:
    classifier = ClassificationTask("mobilenet_v2", None, crop_size=32, resize_size=32)
    detector = TorchvisionDetectionTask("fcos", None, min_size=32, max_size=32)
    for task in (classifier, detector):
        with torch.no_grad():
            for parameter in task.parameters():
                parameter.fill_(3e38)
        with pytest.raises(WeightsError, match="returned NaN or infinite values"):
            task.predict(torch.rand(1, 3, 32, 32))
