"""Files of fine-tuned task networks."""

from __future__ import annotations

from pathlib import Path

from vcm.errors import ArgumentError
from vcm.nn.serialization import read_model, write_model
from vcm.nn.weights import state_sha256
from vcm.tasks.split import SplitTask
from vcm.types import Settings

KIND = "FineTunedTask"
_NETWORK = ("task", "name", "cfg_sha256", "categories")
"""Settings that define the network; the others define its use, and may differ between training and use."""


def save_fine_tuned(task: SplitTask, path: str | Path, **notes: str) -> None:
    """Write a task's weights and its initial settings to a safetensors file.

    Args:
        task: Task to save.
        path: The file; its folder must exist.
        notes: Additional metadata of the file.
    """
    write_model(path, task.state_dict(), {"network": KIND, "settings": task.settings()}, notes)


def fine_tuned(task: SplitTask, weights: str | Path) -> SplitTask:
    """Load fine-tuned weights of `vcm train` into a task; its settings then contain their SHA-256.

    Args:
        task: Task with the same network; its thresholds, input size and cut may differ from training.
        weights: File written by `save_fine_tuned`.

    Raises:
        WeightsError: If the file is missing, damaged or not a fine-tuned task, or of another network.
        ArgumentError: If the task's settings do not contain the SHA-256 of its weights.
    """

    def check(architecture: Settings) -> SplitTask:
        if architecture.get("network") != KIND:
            raise ArgumentError("weights", expected="those of a task", got=architecture.get("network"))
        before, now = architecture.get("settings"), task.settings()
        if not isinstance(before, dict):
            raise ArgumentError("weights", expected="those of a task, with its settings", got=type(before))
        for name in _NETWORK:
            if before.get(name) != now.get(name):
                raise ArgumentError(
                    "task",
                    expected=f"one with {name} {_short(before.get(name))}, like the weights",
                    got=_short(now.get(name)),
                    remedy="Build the task that was fine-tuned.",
                )
        return task

    read_model(weights, "a fine-tuned task", check)
    task.weights_sha256 = state_sha256(task.state_dict())
    if task.settings().get("weights_sha256") != task.weights_sha256:
        raise ArgumentError(
            "task", expected="a task with weights_sha256 in its settings()", got=type(task).__name__
        )
    return task


def _short(setting: object) -> object:
    """Abbreviate a list of names to its length and first items."""
    shown = 3
    if isinstance(setting, list) and len(setting) > shown:
        return f"{len(setting)}: {', '.join(map(str, setting[:shown]))}, …"
    return setting
