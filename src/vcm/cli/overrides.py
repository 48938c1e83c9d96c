"""Translate the Hydra overrides that users write: short and former names of config groups."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
FORMER_SETTINGS: Mapping[str, Mapping[str, str]] = {
    "SlimmableModule": {
        "weights": "lmbda",
        "weight_scale": "lmbda_scale",
        "auxiliary_learning_rate": "aux_learning_rate",
    },
    "ProxyCodecModule": {"weights": "lmbda"},
    "TaskModule": {"rates": "lmbda"},
    "QuantizationAdaptiveNPP": {"rates": "lmbda_range"},
    "NPPPreprocessor": {"rate": "lmbda"},
}
"""Present names of settings by former ones, by the class of vcm that takes them."""
FORMER_TARGETS: Mapping[str, str] = {
    "vcm.evaluation.preprocessing.NPPPreprocessor": "vcm.encoding.preprocessing.NPPPreprocessor"
}
"""Present `_target_`s of classes that moved."""
_FORMER_CURVE_SETTINGS = {"rates": "lmbda"}
"""The same for the curves of an evaluation."""
_FORMER_KEY = re.compile(
    r"module\.(weights|weight_scale|rates|auxiliary_learning_rate)\b.*|network\.rates"
    r"|(codecs\.\w+\.)?preprocessor\.rate|codecs\.\w+\.rates"
)
"""Settings that may have former names; what they belong to is known once they are composed."""
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


def current_settings(settings: dict[str, Any], moved: list[str] | None = None) -> dict[str, Any]:
    """Return a configuration in which settings with former names have the present ones.

    Args:
        settings: Nested plain values; not changed.
        moved: List to which a note is appended for each such setting.
    """
    found: dict[str, Any] = _with_current_names(settings, "", [] if moved is None else moved)
    return found


def _with_current_names(value: Any, place: str, moved: list[str]) -> Any:  # noqa: ANN401  any JSON value
    if isinstance(value, list):
        return [_with_current_names(part, f"{place}[{i}]", moved) for i, part in enumerate(value)]
    if not isinstance(value, dict):
        return value
    prefix = f"{place}." if place else ""
    found = {key: _with_current_names(part, f"{prefix}{key}", moved) for key, part in value.items()}
    target = str(found.get("_target_", ""))
    if target in FORMER_TARGETS:
        found["_target_"] = target = FORMER_TARGETS[target]
        moved.append(f"the _target_ of {place} was renamed to {target}")
    names = FORMER_SETTINGS.get(target.rpartition(".")[2], {}) if target.startswith("vcm.") else {}
    if re.fullmatch(r"codecs\.\w+", place):
        names = {**names, **_FORMER_CURVE_SETTINGS}
    for former, present in names.items():
        if former in found:
            given, default = found.pop(former), found.get(present)
            if isinstance(given, dict) and isinstance(default, dict):
                given = {**default, **given}
            found[present] = given
            moved.append(f"{prefix}{former} was renamed to {prefix}{present}")
    return found


def saved_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration that a run saved, perhaps by vcm 0.1, with present names and values."""

    def renamed(part: Mapping[str, Any]) -> dict[str, Any]:
        return {RENAMED.get(key, key): value for key, value in part.items()}

    found = renamed(settings)
    if isinstance(found.get("module"), dict):
        found["module"] = renamed(found["module"])
    return current_settings(_with_current_values(found))


def _with_current_values(value: Any) -> Any:  # noqa: ANN401  any JSON value
    if isinstance(value, dict):
        return {key: _with_current_values(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_with_current_values(part) for part in value]
    return SAVED_VALUES.get(value, value) if isinstance(value, str) else value


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
    if key == "experiment" and rest[:1] in ("", "=", "@"):
        return _current_experiment(command, argument, prefix, rest, folder)
    is_former = not prefix and _FORMER_KEY.fullmatch((key + rest).partition("=")[0])
    return f"++{argument}" if is_former else argument


def _current_experiment(command: str, argument: str, prefix: str, rest: str, folder: Path | None) -> str:
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


class FormerOption(argparse.Action):
    """A command-line option by its former name: stored as usual, with a note that gives the present name.

    Args:
        present: The present option, such as "--lmbda"; other arguments are those of `argparse.Action`.
    """

    def __init__(self, *, present: str, **options: Any) -> None:  # noqa: ANN401  argparse's own
        super().__init__(**options)
        self.present = present

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Store the value and print the note on standard error."""
        print(f"{parser.prog}: note: {option_string} was renamed to {self.present}.", file=sys.stderr)
        setattr(namespace, self.dest, values)
