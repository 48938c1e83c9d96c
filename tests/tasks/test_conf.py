"""conf/task: every file names a task that exists and gives it options that it has."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import vcm.conf
import yaml

import vcm.tasks

FILES = sorted(Path(vcm.conf.__file__).parent.glob("task/*.yaml"))
OWN_TEST = ("fine_tuned",)


@pytest.mark.parametrize("path", [p for p in FILES if p.stem not in OWN_TEST], ids=lambda path: path.stem)
def test_options_are_the_constructors(path: Path) -> None:
    options = yaml.safe_load(path.read_text())
    task = getattr(vcm.tasks, options.pop("_target_").removeprefix("vcm.tasks."))
    parameters = inspect.signature(task).parameters
    assert set(options) == set(parameters)
    for name, value in options.items():
        default = parameters[name].default
        if default not in (inspect.Parameter.empty, None):
            assert value == default, name
    published = options["weights"] in ("COCO_V1", "IMAGENET1K_V1", "in1k")
    assert published or options["weights"] == "???" or options["weights"].startswith("${asset:")
    if "architecture" in options or options["weights"] == "???":
        assert task(**{**options, "weights": None, "cut": None}).cut == options["cut"]


def test_all_tasks_have_a_file() -> None:
    stems = {path.stem for path in FILES}
    detectors, classifiers = vcm.tasks.TorchvisionDetectionTask, vcm.tasks.ClassificationTask
    architectures = {*detectors.architectures, *classifiers.architectures}
    assert architectures < stems
    assert stems - architectures == {"yolov3", "yolov3_spp", "yolov3_tiny", "yolov4_tiny", *OWN_TEST}
