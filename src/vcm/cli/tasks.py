"""SplitTask networks by the names that conf/task gives them."""

from __future__ import annotations

from importlib import resources

from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from vcm.cli.composition import told_error
from vcm.cli.devices import choose_device
from vcm.cli.job import register_resolvers
from vcm.errors import ArgumentError, EvaluationError
from vcm.tasks import SplitTask

DEFAULTS = {"detection": "yolov3_tiny", "classification": "mobilenet_v2"}
"""The network that stands for a kind of task."""


def configured_task(name: str, device: str = "cpu") -> SplitTask:
    """Build the task that conf/task calls by this name, or the default of its kind.

    Args:
        name: Such as "yolov3_tiny", or "detection" or "classification".
        device: "cpu", "cuda", … or "auto".

    Raises:
        ArgumentError: If there is no such task.
        EvaluationError: If it cannot be built; where its weights are missing, the message says how to fetch
            them.
    """
    files = resources.files("vcm.conf").joinpath("task").iterdir()
    plans = [file for file in files if file.name.endswith(".yaml")]
    # What has a setting without a value cannot be built by its name alone.
    names = sorted(file.name.removesuffix(".yaml") for file in plans if "???" not in file.read_text())
    chosen = DEFAULTS.get(name, name)
    if chosen not in names:
        raise ArgumentError("--for", expected=f"one of {', '.join([*DEFAULTS, *names])}", got=name)
    register_resolvers()
    try:
        with initialize_config_module("vcm.conf", version_base="1.3"):
            config = compose("evaluate", [f"task={chosen}"])
        task: SplitTask = instantiate(config.task)
    except Exception as error:
        cause = told_error(error)
        if cause is None:
            raise
        raise EvaluationError(f"--for {name}: {cause}") from error
    return task.to(choose_device(device))
