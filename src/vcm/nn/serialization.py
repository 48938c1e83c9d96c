"""Model files: state and architecture."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vcm.errors import ArgumentError, WeightsError
from vcm.files import MAX_WEIGHTS_BYTES, open_regular, printable, write_bytes
from vcm.nn.weights import at_most, check_shapes, check_values, state_sha256
from vcm.types import Settings

NetworkT = TypeVar("NetworkT", bound=nn.Module)
_KEY, _SHA256 = "vcm", "sha256"
_MAX_JSON = 1 << 20
_MAX_MESSAGE = 1000


def write_model(
    path: str | Path, state: Mapping[str, Tensor], architecture: Settings, notes: Mapping[str, str]
) -> None:
    """Write a network's state to a safetensors file, atomically.

    Args:
        path: File to write; its folder must exist.
        state: State dict of the network.
        architecture: Settings that rebuild the network; "network" is the name of its class.
        notes: Further metadata of the file.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {**notes, _KEY: json.dumps(architecture), _SHA256: state_sha256(state)}
    write_bytes(path, save(state, metadata))


def read_model(path: str | Path, kinds: str, build: Callable[[Settings], NetworkT]) -> NetworkT:
    """Read a network from a model file, in evaluation mode, on the CPU.

    The file is not trusted: the network may not have more numbers than the file, shapes are compared before
    tensors are read, and all weights must be finite.

    Args:
        path: Model file of at most 8 GiB.
        kinds: Description of the expected content, for errors.
        build: Builds the network from its architecture; raises ArgumentError for another kind.

    Raises:
        ArgumentError: If `path` is neither a string nor a path object.
        WeightsError: If the file is missing, damaged or something else.
    """
    with _opened(path) as file:
        metadata = file.metadata()
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  no mapping
        try:
            architecture = read_json(metadata[_KEY], "architecture")
            with at_most(sum(map(math.prod, shapes.values()))):
                network = build(architecture)
            check_shapes(network, shapes)
            state = {name: file.get_tensor(name) for name in shapes}
            if metadata.get(_SHA256, "") not in ("", state_sha256(state)):
                raise WeightsError(
                    f"{path} is damaged: its weights do not have the SHA-256 that it says they have."
                )
            check_values(state, network)
            network.load_state_dict(state)
        except (ArgumentError, ValueError, RuntimeError) as error:
            raise WeightsError(f"{path} does not hold {kinds} that can be built: {_short(error)}") from error
    return network.eval()


def read_json(text: str, name: str) -> Settings:
    """Parse a JSON object of a model file's metadata.

    Args:
        text: JSON text, at most 1 MiB.
        name: Name of the text in errors.

    Raises:
        ArgumentError: If it is not a JSON object, too long, or nested too deeply.
    """
    expected = f"a JSON object of at most {_MAX_JSON} characters, not nested deeply"
    if len(text) > _MAX_JSON:
        raise ArgumentError(name, expected=expected, got=f"{len(text)} characters")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArgumentError(name, expected=expected, got=f"{type(error).__name__}: {error}") from error
    if not isinstance(value, dict):
        raise ArgumentError(name, expected=expected, got=f"a JSON {type(value).__name__}")
    return value


def read_notes(path: str | Path) -> dict[str, str]:
    """Read the metadata of a model file.

    Raises:
        ArgumentError: If `path` is neither a string nor a path object.
        WeightsError: If the file is missing, damaged or something else.
    """
    with _opened(path) as file:
        return {name: note for name, note in file.metadata().items() if name not in (_KEY, _SHA256)}


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError("path", expected="a string or a path object", got=path)
    try:
        open_regular(path, limit=MAX_WEIGHTS_BYTES).close()
        with safe_open(path, framework="pt") as file:
            if _KEY not in (file.metadata() or {}):
                raise WeightsError(
                    f"{path} is a safetensors file, but not a model that vcm wrote: its metadata names no "
                    "network."
                )
            yield file
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise WeightsError(
            f"{path} cannot be read as a model: {_short(reason)}. Give a .safetensors file that `vcm train` "
            "wrote."
        ) from error


def _short(message: object) -> str:
    """Shorten a message that may quote a file, and remove control characters."""
    text = printable(message)
    return text if len(text) <= _MAX_MESSAGE else f"{text[:_MAX_MESSAGE]}…"
