"""Options of config groups on Hydra's search path."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf

from vcm.data.assets import asset_file
from vcm.files import file_name
from vcm.nn.hardware import cpu_has_bf16
from vcm.weights import shipped

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


def register_resolvers() -> None:
    """Register the OmegaConf resolvers ${asset:name,file}, ${file_name:text},
    ${shipped:name}, ${option_list:command} and ${cpu_precision:}.
    """
    OmegaConf.register_new_resolver("asset", lambda name, file: str(asset_file(name, file)), replace=True)
    OmegaConf.register_new_resolver("option_list", option_list, replace=True)
    OmegaConf.register_new_resolver("file_name", file_name, replace=True)
    OmegaConf.register_new_resolver("cpu_precision", cpu_precision, replace=True)
    OmegaConf.register_new_resolver("shipped", lambda name: str(shipped(name)), replace=True)


def cpu_precision() -> str:
    """Return the training precision for this CPU: "bf16-mixed" with bfloat16 instructions, else "32-true"."""
    return "bf16-mixed" if cpu_has_bf16() else "32-true"
