"""Translate the Hydra overrides that users write: short and former names of config groups."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vcm.errors import ArgumentError

RENAMED: Mapping[str, str] = {"loop": "codec_loop"}
"""Settings of vcm 0.1 and their present names."""
RENAMED_VALUES: Mapping[str, str] = {
    "data=pictures": "data=images",
    "module.drawing=per_picture": "module.drawing=per_image",
}
"""Overrides of vcm 0.1 and their present form."""
SAVED_VALUES: Mapping[str, str] = {
    "${loop}": "${codec_loop}",
    "per_picture": "per_image",
    "vcm.data.PictureDataModule": "vcm.data.ImageDataModule",
    "vcm.data.PictureFolderDataset": "vcm.data.ImageFolderDataset",
}
"""Values in configurations saved by vcm 0.1 and their present form."""
_CHOICE = re.compile(r"^choice\((.*)\)$")
_OVERRIDE = re.compile(r"(?P<prefix>\+{0,2}|~)(?P<key>[A-Za-z_]\w*)(?P<rest>(?:[.@=/].*)?)", re.DOTALL)


def current_overrides(command: str, arguments: Sequence[str]) -> list[str]:
    """Translate `experiment=NAME` to the group of the command, and former names to the present ones.

    Experiments are in the groups `experiment/train` and `experiment/evaluate`. A user's experiment that is
    still directly in the folder `experiment` of `--config-dir`, as in vcm 0.1, is also found.

    Args:
        command: "train" or "evaluate".
        arguments: Arguments of the command, including Hydra's own options.

    Raises:
        ArgumentError: If one sweep mixes experiments from both folders.
    """
    folder = _config_dir(arguments)
    return [_current(command, argument, folder) for argument in arguments]


def renamed_key(key: str) -> str:
    """Return the present name of a dotted key from a configuration that vcm 0.1 saved."""
    first, dot, rest = key.partition(".")
    if first == "module" and rest in RENAMED:
        return f"module.{RENAMED[rest]}"
    return RENAMED.get(first, first) + dot + rest


def _current(command: str, argument: str, folder: Path | None) -> str:
    match = _OVERRIDE.fullmatch(argument)
    if match is None or (not match["rest"] and match["prefix"] != "~"):  # also the value of an option
        return argument
    if present := RENAMED_VALUES.get(argument):
        _tell(command, f"{argument} was renamed to {present}")
        return present
    prefix, key, rest = match["prefix"], match["key"], match["rest"]
    if key in RENAMED:
        _tell(command, f"{key} was renamed to {RENAMED[key]}")
        return f"{prefix}{RENAMED[key]}{rest}"
    if key != "experiment" or rest[:1] not in ("", "=", "@"):
        return argument
    names = [name.strip(" '\"[]") for name in _CHOICE.sub(r"\1", rest.partition("=")[2]).split(",")]
    misplaced = [name for name in names if folder is not None and _is_misplaced(folder, command, name)]
    if not misplaced or folder is None:
        return f"{prefix}experiment/{command}{rest}"
    place = folder / "experiment"
    if len(misplaced) < len(names):
        raise ArgumentError(
            "experiment",
            expected=f"names of files in one folder, {place / command}",
            got=", ".join(names),
            remedy=f"Move {', '.join(f'{name}.yaml' for name in misplaced)} from {place} to that folder.",
        )
    _tell(command, f"experiments now belong in {place / command}; found {', '.join(names)} in {place}")
    return argument


def _is_misplaced(folder: Path, command: str, name: str) -> bool:
    place = folder / "experiment"
    return (place / f"{name}.yaml").is_file() and not (place / command / f"{name}.yaml").is_file()


def _config_dir(arguments: Sequence[str]) -> Path | None:
    for number, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in ("--config-dir", "-cd"):
            return Path(value if equals else "".join(arguments[number + 1 : number + 2]))
        if argument.startswith("-cd") and argument[3:]:
            return Path(argument[3:])
    return None


def _tell(command: str, note: str) -> None:
    print(f"vcm {command}: note: {note}.", file=sys.stderr)
