"""Fine-tuned task networks as files."""

from __future__ import annotations

from pathlib import Path

from vcm.errors import ArgumentError
from vcm.nn.serialization import read_model, write_model
from vcm.nn.weights import state_sha256
from vcm.tasks.split import SplitTask
from vcm.types import Settings

KIND = "FineTunedTask"
_NETWORK = ("task", "name", "cfg_sha256", "categories")
"""Settings that make the network; the others say how it is used, and may change between training and use."""


def save_fine_tuned(task: SplitTask, path: str | Path, **notes: str) -> None:
    """Write a task's weights to a safetensors file, with the settings that the task started with.

    Args:
        task: What to save.
        path: The file; its folder must exist.
        notes: More to say about it, kept in the file's metadata.
    """
    write_model(path, task.state_dict(), {"network": KIND, "settings": task.settings()}, notes)


def fine_tuned(task: SplitTask, weights: str | Path) -> SplitTask:
    """Give a task the weights that `vcm train` fine-tuned; its settings then have the SHA-256 of these.

    Args:
        task: Of the same network; its thresholds, input size and cut may be others than in training.
        weights: A file that `save_fine_tuned` wrote.

    Raises:
        WeightsError: If the file is missing, damaged or something else, or of another network.
        ArgumentError: If the task's settings do not have a SHA-256 of its weights.
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
                    expected=f"one of {name} {_short(before.get(name))}, as the weights' own",
                    got=_short(now.get(name)),
                    remedy="Build the task that was fine-tuned.",
                )
        return task

    read_model(weights, "a fine-tuned task", check)
    task.weights_sha256 = state_sha256(task.state_dict())
    if task.settings().get("weights_sha256") != task.weights_sha256:
        raise ArgumentError(
            "task", expected="one whose settings() have its weights_sha256", got=type(task).__name__
        )
    return task


def _short(setting: object) -> object:
    """A list of names by its length and its first ones."""
    shown = 3
    if isinstance(setting, list) and len(setting) > shown:
        return f"{len(setting)}: {', '.join(map(str, setting[:shown]))}, …"
    return setting
