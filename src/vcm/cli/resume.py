"""Checks before a training run is resumed: lock, checkpoint, settings."""

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
    file_sha256,
    find_files,
    open_regular,
    printable,
    read_text,
    remove_partial_files,
    write_text,
)

LOCK_FILE, CONFIG_FILE, INPUTS_FILE = ".lock", "config.yaml", "inputs.json"
_CHECKPOINT_KEYS = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "loops")
_IRRELEVANT = (
    *("trainer", "callbacks", "logger", "name", "run_dir", "start_from", "objective", "hydra"),
    *("data.num_workers", "data.keep_in_memory", "codec_loop.workers", "module.compile"),
)
"""Settings that may change when a run is resumed: duration, devices, workers, outputs."""
_FROZEN_WEIGHTS = ("tasks.", "proxy.path", "module.preprocessor.path")
"""Settings that name weights files; the module itself compares their content with the checkpoint."""
_MAX_CONFIG_BYTES = 4 << 20
_DAMAGED = (OSError, ValueError, RecursionError, AttributeError, yaml.YAMLError, OmegaConfBaseException)
"""Errors raised when a file is not a valid configuration."""
_MAX_DEPTH = 50
_NUM_SAMPLED = 64
"""Number of files of a folder whose content is hashed, in addition to the names and sizes of all files."""
_DATA_SUFFIXES = frozenset((*IMAGE_SUFFIXES, ".txt", ".json", ".yaml", ".yml"))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a run's folder, and remove partially written files that a killed run left there.

    Raises:
        OutputError: If another process holds the lock.
    """
    try:
        with FileLock(folder / LOCK_FILE, timeout=0):
            with suppress(OSError):
                remove_partial_files(folder, owned=True)
            yield
    except Timeout as error:
        raise OutputError(
            f"Cannot train in {folder}: another process is training there. Wait for it to end, or use "
            "another run_dir."
        ) from error


def check_checkpoint(path: Path) -> None:
    """Validate a checkpoint of `vcm train`.

    Raises:
        WeightsError: If the archive is damaged, or parts of the training state are missing.
    """
    from vcm.nn.weights import load_tensors

    remedy = "Restore it from a copy, or remove it to start over."
    try:
        with open_regular(path, limit=MAX_WEIGHTS_BYTES) as file:
            content = load_tensors(file)
    except Exception as error:  # zipfile and torch can raise anything on damaged files
        if isinstance(error, UnpicklingError):
            raise WeightsError(
                f"{path} cannot be resumed: it contains objects other than tensors and plain values. Exclude "
                "them in the module: save_hyperparameters(ignore=[…])."
            ) from error
        reason = printable(str(error).partition("\n")[0])
        raise WeightsError(f"{path} is damaged and cannot be resumed: {reason} {remedy}") from error
    missing = [key for key in _CHECKPOINT_KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise WeightsError(
            f"{path} is not a checkpoint that `vcm train` wrote: it lacks {', '.join(missing)}. {remedy}"
        )


def check_same_settings(composed: DictConfig, folder: Path, overrides: Sequence[str] = ()) -> None:
    """Refuse to resume a run with another network, dataset or loss.

    Paths are compared by content: the same files in another folder are the same data. A setting that the
    saved configuration lacks and that this call does not set is new in vcm and stays at its default.

    Args:
        composed: The present configuration.
        folder: Folder of the run.
        overrides: Overrides of this call, such as "module.learning_rate=1e-4".

    Raises:
        ResumeError: If a relevant setting has changed; the message shows both values.
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
            "setting, or remove the folder to start over."
        )
    for key, content in contents.items():
        if key in now and before.get(key) == now[key] and content != content_of(now[key]):
            print(
                f"vcm train: note: the files of {key}={printable(now[key])} changed since the run began.",
                file=sys.stderr,
            )


def save_settings(composed: DictConfig, folder: Path) -> None:
    """Save the settings and the content hashes of a run for `check_same_settings`."""
    write_text(folder / CONFIG_FILE, OmegaConf.to_yaml(composed))
    if not (folder / INPUTS_FILE).exists():
        found = {
            key: content
            for key, value in flat(OmegaConf.to_container(composed)).items()
            if is_input(key) and (content := content_of(value))
        }
        write_text(folder / INPUTS_FILE, json.dumps(found, indent=1) + "\n")


def is_input(key: str) -> bool:
    """Return whether a setting may name files that a run reads, rather than writes."""
    return not key.startswith(_IRRELEVANT) and not key.endswith(".cache")


def content_of(value: object) -> str | None:
    """Hash the content of a file or folder.

    For a folder, hash the names and sizes of all data files and the content of about 64 of them, so that a
    large dataset takes seconds.

    Returns:
        SHA-256 in hexadecimal; None if `value` is not the path of a readable file or folder.
    """
    if not isinstance(value, str) or not value:
        return None
    digest = hashlib.sha256()
    try:
        path = Path(value)
        if path.is_file():
            return file_sha256(path)
        if not path.is_dir():
            return None
        files = find_files(path, _DATA_SUFFIXES)
        for file in files:
            digest.update(
                f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode(errors="surrogateescape")
            )
        for file in files[:: max(1, len(files) // _NUM_SAMPLED)]:
            digest.update(bytes.fromhex(file_sha256(file)))
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def _same_content(key: str, new: object, contents: Mapping[str, str]) -> bool:
    """Return whether a changed path still names the content that the run began with."""
    if key.startswith(_FROZEN_WEIGHTS) and key.endswith((".weights", ".path")):
        return new is None or isinstance(new, str)
    return key in contents and contents[key] == content_of(new)


def flat(content: object, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings to one with dotted keys. Lists are values."""
    if not isinstance(content, dict) or not content:
        return {prefix: content} if prefix else {}
    found: dict[str, Any] = {}
    for key, value in content.items():
        found.update(flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


def _read_config(path: Path) -> dict[str, Any]:
    """A saved configuration as plain values.

    Raises:
        ResumeError: If it is damaged. YAML aliases count as damage, because they could expand without end.
    """
    try:
        text = read_text(path, limit=_MAX_CONFIG_BYTES)
        _check_plain(text)
        content = OmegaConf.to_container(OmegaConf.create(text))
        if not isinstance(content, dict) or not content:
            raise ValueError("it contains no settings")
        return {str(key): value for key, value in content.items()}
    except _DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ResumeError(
            f"{path} is damaged: {reason}. Restore it, or remove the folder {path.parent} to start over."
        ) from error


def _check_plain(text: str) -> None:
    """Raise ValueError for YAML with aliases or deep nesting, which vcm never writes."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it contains YAML aliases")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")


def _read_inputs(path: Path) -> dict[str, str]:
    """Read the content hashes that a run began with; empty if the file is missing or damaged."""
    try:
        found = json.loads(read_text(path, limit=_MAX_CONFIG_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _shown(value: object) -> str:
    text = printable(json.dumps(value) if isinstance(value, (list, dict)) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."
