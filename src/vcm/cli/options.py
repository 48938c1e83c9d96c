"""Options of config groups on Hydra's search path."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

_USES = {
    "evaluate": ("codec", "curve", "data", "hparams_search", "task"),
    "train": (
        *("callbacks", "codec_loop", "data", "debug", "hparams_search", "logger", "module", "network"),
        *("optimizer", "proxy", "scheduler", "task", "trainer"),
    ),
}
"""Config groups of each command. Both commands also have `experiment`, each with its own options."""
_HINTS = {
    ("evaluate", "curve"): "  (+curve@codecs.NAME=[…])",
    ("train", "task"): "  (+task@tasks.NAME=…)",
}
"""Syntax of the groups that are not set with GROUP=OPTION."""


def option_list(command: str) -> str:
    """List the config groups of a command and their options, one group per line, for `--help`.

    Args:
        command: "train" or "evaluate".
    """
    first = f"experiment: {', '.join(options(f'experiment/{command}'))}"
    groups = (
        f"{group}: {', '.join(options(group))}{_HINTS.get((command, group), '')}" for group in _USES[command]
    )
    return "\n".join([first, *groups])


def options(group: str) -> list[str]:
    """Return the sorted options of a group; options in its subfolders are named "folder/name".

    Args:
        group: Group name, such as "codec" or "experiment/train".
    """
    if GlobalHydra.instance().is_initialized():
        loader = GlobalHydra.instance().config_loader()

        def found(name: str) -> list[str]:
            inner = [
                f"{folder}/{option}"
                for folder in loader.get_group_options(name, ObjectType.GROUP)
                for option in found(f"{name}/{folder}")
            ]
            return [*loader.get_group_options(name, ObjectType.CONFIG), *inner]

        return sorted(found(group))
    folder = resources.files("vcm.conf").joinpath(group)
    return _own_options(folder) if folder.is_dir() else []


def _own_options(folder: Traversable) -> list[str]:
    names = []
    for entry in folder.iterdir():
        if entry.name.endswith(".yaml"):
            names.append(entry.name.removesuffix(".yaml"))
        elif entry.is_dir():
            names += [f"{entry.name}/{name}" for name in _own_options(entry)]
    return sorted(names)
