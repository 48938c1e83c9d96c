"""A trained network as one file: its state, and what builds it again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vcm.errors import ArgumentError, WeightsError
from vcm.nn.content import state_sha256
from vcm.types import Settings

NetworkT = TypeVar("NetworkT", bound=nn.Module)
_KEY, _SHA256 = "vcm", "sha256"


def write_model(
    path: str | Path, state: Mapping[str, Tensor], architecture: Settings, notes: Mapping[str, str]
) -> None:
    """Write a network's state to a safetensors file, under its name only when all is written.

    Args:
        path: The file; its folder must exist.
        state: The network's state dict.
        architecture: What builds the network again; its "network" names the kind.
        notes: More to say about it, kept in the file's metadata.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {**notes, _KEY: json.dumps(architecture), _SHA256: state_sha256(state)}
    partial = Path(path).with_name(Path(path).name + ".partial")
    partial.write_bytes(save(state, metadata))  # save_file's are for their owner only
    partial.replace(path)


def read_model(path: str | Path, kinds: str, build: Callable[[Settings], NetworkT]) -> NetworkT:
    """Read a network that `write_model` wrote, in evaluation mode, on the CPU.

    Args:
        path: The file.
        kinds: Words for what it is to hold.
        build: Makes the network from its architecture; raises ArgumentError where it is of another kind.

    Raises:
        WeightsError: If the file is missing, damaged or something else.
    """
    with _opened(path) as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    if metadata.get(_SHA256, "") not in ("", state_sha256(state)):
        raise WeightsError(f"{path} is damaged: its weights do not have the SHA-256 that it says they have.")
    try:
        network = build(json.loads(metadata[_KEY]))
        network.load_state_dict(state)
    except (ArgumentError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} does not hold {kinds} that can be built: {error}") from error
    return network.eval()


def read_notes(path: str | Path) -> dict[str, str]:
    """The notes that `write_model` wrote with a network.

    Raises:
        WeightsError: If the file is missing, damaged or something else.
    """
    with _opened(path) as file:
        return {name: note for name, note in file.metadata().items() if name not in (_KEY, _SHA256)}


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    if Path(path).is_dir():
        raise WeightsError(
            f"{path} cannot be read as a model: it is a folder. Give the .safetensors file in it."
        )
    try:
        with safe_open(path, framework="pt") as file:
            if _KEY not in (file.metadata() or {}):
                raise WeightsError(
                    f"{path} is a safetensors file, but not a model that vcm wrote: its metadata names no "
                    "network."
                )
            yield file
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"{path} cannot be read as a model: {error}. Give a .safetensors file that `vcm train` wrote."
        ) from error
