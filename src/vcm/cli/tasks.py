"""Load task networks by their config name."""

from __future__ import annotations

from importlib import resources
from typing import Any

from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from vcm.cli.devices import choose_device
from vcm.cli.errors import user_message
from vcm.cli.options import register_resolvers
from vcm.errors import ArgumentError, EvaluationError
from vcm.tasks import SplitTask

DEFAULTS = {"detection": "yolov3_tiny", "classification": "mobilenet_v2"}
"""Default network of each kind of task."""


def load_task(name: str, device: str = "cpu", *, argument: str = "name", **settings: Any) -> SplitTask:  # noqa: ANN401  the task's own arguments
    """Build a task from conf/task by its name, or the default task of a kind.

    Args:
        name: Config name such as "yolov3_tiny", or "detection" or "classification".
        device: "cpu", "cuda", … or "auto".
        argument: Name of the argument in error messages.
        settings: Constructor arguments that override the config's, such as `cut="layer1"`.

    Raises:
        ArgumentError: If there is no such task, or no such device.
        EvaluationError: If the task cannot be built. If its weights are missing, the message says how to
            download them.
    """
    files = resources.files("vcm.conf").joinpath("task").iterdir()
    plans = [file for file in files if file.name.endswith(".yaml")]
    # Configs with a mandatory setting cannot be built from their name alone.
    names = sorted(file.name.removesuffix(".yaml") for file in plans if "???" not in file.read_text())
    chosen = DEFAULTS.get(name, name)
    if chosen not in names:
        raise ArgumentError(argument, expected=f"one of {', '.join([*DEFAULTS, *names])}", got=name)
    register_resolvers()
    try:
        with initialize_config_module("vcm.conf", version_base="1.3"):
            config = compose("evaluate", [f"task={chosen}"])
        task: SplitTask = instantiate(config.task, **settings)
    except Exception as error:
        cause = user_message(error)
        if cause is None:
            raise
        raise EvaluationError(f"{argument} {name}: {cause}") from error
    return task.to(choose_device(device))
