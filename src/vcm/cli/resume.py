"""Checks before a training is resumed: lock, checkpoint, settings."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vcm.cli.overrides import saved_settings
from vcm.data.reading import IMAGE_SUFFIXES
from vcm.errors import OutputError, ResumeError, WeightsError
from vcm.files import (
    MAX_WEIGHTS_BYTES,
    find_files,
    open_regular,
    printable,
    read_bytes,
    read_text,
    write_text,
)

LOCK_FILE, CONFIG_FILE, INPUTS_FILE = ".lock", "config.yaml", "inputs.json"
_CHECKPOINT_KEYS = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "loops")
_IRRELEVANT = (
    *("trainer", "callbacks", "logger", "name", "run_dir", "start_from", "objective", "hydra"),
    *("data.num_workers", "data.keep_in_memory", "codec_loop.workers", "module.compile"),
)
"""Settings that may change when a run is resumed: how long, on which devices, with how many helpers."""
_FROZEN_WEIGHTS = ("tasks.", "proxy.path", "module.preprocessor.path")
"""Where weights files are named whose content the module itself compares with the checkpoint."""
_MAX_CONFIG_BYTES = 4 << 20
_DAMAGED = (OSError, ValueError, RecursionError, AttributeError, yaml.YAMLError, OmegaConfBaseException)
"""What reading a configuration raises that is not one."""
_MAX_DEPTH = 50
_NUM_SAMPLED = 64
"""Files of a folder whose content is compared, besides every file's name and size."""
_DATA_SUFFIXES = frozenset((*IMAGE_SUFFIXES, ".txt", ".json", ".yaml", ".yml"))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder, and remove what a killed run left half written there.

    Raises:
        OutputError: If another process holds it.
    """
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            for partial in (*folder.glob(".vcm-*.partial"), *folder.glob("checkpoints/.vcm-*.partial")):
                with suppress(OSError):
                    partial.unlink()
            yield
    except Timeout as error:
        raise OutputError(
            f"Cannot train in {folder}: another process is training there. Wait for it to end, or use "
            "another run_dir."
        ) from error


def check_checkpoint(path: Path) -> None:
    """Make sure that a checkpoint is whole and one that `vcm train` wrote.

    Raises:
        WeightsError: If a checksum of the archive does not fit, or parts of the training's state are missing.
    """
    from vcm.nn.checks import load_tensors

    remedy = "Put a copy in its place, or remove it to start again."
    try:
        with open_regular(path, limit=MAX_WEIGHTS_BYTES) as file:
            content = load_tensors(file)
    except Exception as error:  # whatever zipfile and torch raise on damaged files
        if isinstance(error, UnpicklingError):
            raise WeightsError(
                f"{path} cannot be resumed: it holds other objects than tensors and plain values. Have the "
                "module leave them out: save_hyperparameters(ignore=[…])."
            ) from error
        reason = printable(str(error).partition("\n")[0])
        raise WeightsError(f"{path} is damaged and cannot be resumed: {reason} {remedy}") from error
    missing = [key for key in _CHECKPOINT_KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise WeightsError(
            f"{path} is not a checkpoint that `vcm train` wrote: it lacks {', '.join(missing)}. {remedy}"
        )


def check_same_settings(composed: DictConfig, folder: Path, overrides: Sequence[str] = ()) -> None:
    """Refuse to go on with another network, other data or another loss than a run began with.

    Paths are compared by what lies there: the same files in another folder are the same data. A setting that
    the run did not have, and that nobody gave now, is one that vcm has gained since, at its default.

    Args:
        composed: The configuration now.
        folder: The run's.
        overrides: What this call gave, such as "module.learning_rate=1e-4".

    Raises:
        ResumeError: If a setting that matters has changed, with both values.
    """
    saved = folder / CONFIG_FILE
    if not saved.exists():
        return
    before = flat(saved_settings(_read_config(saved)))
    now = flat(OmegaConf.to_container(composed))
    contents = _read_inputs(folder / INPUTS_FILE)
    given = {override.lstrip("+~").partition("=")[0] for override in overrides}
    changed = []
    for key in sorted({**before, **now}):
        if key in _IRRELEVANT or key.startswith(tuple(f"{name}." for name in _IRRELEVANT)):
            continue
        old, new = before.get(key, "not set"), now.get(key, "not set")
        is_gained = key not in before and not any(f"{key}.".startswith(f"{name}.") for name in given)
        if old != new and not is_gained and not _same_content(key, new, contents):
            changed.append(f"{key} changed ({_shown(old)} -> {_shown(new)})")
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ResumeError(
            f"Cannot resume {folder}: {'; '.join(changed[:3])}{more}. Use a new run_dir or name, restore the "
            "setting, or remove the folder to start again."
        )
    for key, content in contents.items():
        if key in now and before.get(key) == now[key] and content != content_of(now[key]):
            print(
                f"vcm train: note: {key}={printable(now[key])} has other files than when the run began.",
                file=sys.stderr,
            )


def save_settings(composed: DictConfig, folder: Path) -> None:
    """Keep what the run is made of, for `check_same_settings`."""
    write_text(folder / CONFIG_FILE, OmegaConf.to_yaml(composed))
    if not (folder / INPUTS_FILE).exists():
        found = {
            key: content
            for key, value in flat(OmegaConf.to_container(composed)).items()
            if is_input(key) and (content := content_of(value))
        }
        write_text(folder / INPUTS_FILE, json.dumps(found, indent=1) + "\n")


def is_input(key: str) -> bool:
    """Whether a setting may name files that a run reads, not ones that it writes."""
    return not key.startswith(_IRRELEVANT) and not key.endswith(".cache")


def content_of(value: object) -> str | None:
    """Hash what lies at a path: a file's bytes; of a folder the names and sizes of its data files, and the
    bytes of some of them, so that a large data set takes seconds.

    Returns:
        SHA-256 in hexadecimal; None if `value` is not the path of a file or folder that can be read.
    """
    if not isinstance(value, str) or not value:
        return None
    digest = hashlib.sha256()
    try:
        path = Path(value)
        if path.is_file():
            digest.update(read_bytes(path, limit=MAX_WEIGHTS_BYTES))
            return digest.hexdigest()
        if not path.is_dir():
            return None
        files = find_files(path, _DATA_SUFFIXES)
        for file in files:
            digest.update(
                f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode(errors="surrogateescape")
            )
        for file in files[:: max(1, len(files) // _NUM_SAMPLED)]:
            digest.update(hashlib.sha256(read_bytes(file, limit=MAX_WEIGHTS_BYTES)).digest())
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def _same_content(key: str, new: object, contents: Mapping[str, str]) -> bool:
    """Whether a changed value names the files that the run began with."""
    if key.startswith(_FROZEN_WEIGHTS) and key.endswith((".weights", ".path")):
        return new is None or isinstance(new, str)
    return key in contents and contents[key] == content_of(new)


def flat(content: object, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys; lists are values."""
    if not isinstance(content, dict) or not content:
        return {prefix: content} if prefix else {}
    found: dict[str, Any] = {}
    for key, value in content.items():
        found.update(flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


def _read_config(path: Path) -> dict[str, Any]:
    """A saved configuration as plain values.

    Raises:
        ResumeError: If it is damaged. Aliases, which could unfold without end, count as damage.
    """
    try:
        text = read_text(path, limit=_MAX_CONFIG_BYTES)
        _check_plain(text)
        content = OmegaConf.to_container(OmegaConf.create(text))
        if not isinstance(content, dict) or not content:
            raise ValueError("it holds no settings")
        return {str(key): value for key, value in content.items()}
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ResumeError(
            f"{path} is damaged: {reason}. Restore it, or remove the folder {path.parent} to start again."
        ) from error


def _check_plain(text: str) -> None:
    """Raise ValueError for YAML that could unfold or nest without end: vcm writes neither."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has YAML aliases")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")


def _read_inputs(path: Path) -> dict[str, str]:
    """The content hashes that a run began with; none where the file is missing or damaged."""
    try:
        found = json.loads(read_text(path, limit=_MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _shown(value: object) -> str:
    text = printable(json.dumps(value) if isinstance(value, (list, dict)) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."
