"""A trained network as one file: weights, entropy tables, and what builds it again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vcm.errors import ArgumentError, VCMError, WeightsError
from vcm.nn.content import state_sha256
from vcm.nn.slimmable.factorized import LatentScalable, SlimmableFactorized
from vcm.nn.slimmable.hyperprior import SlimmableHyperprior
from vcm.nn.slimmable.network import MultiTaskNetwork
from vcm.nn.slimmable.records import FeatureMap
from vcm.types import Settings

NETWORKS = {kind.__name__: kind for kind in (SlimmableFactorized, SlimmableHyperprior, LatentScalable)}
_KEY, _SHA256 = "vcm", "sha256"


def build_network(architecture: Settings) -> MultiTaskNetwork:
    """A new network from what `MultiTaskNetwork.architecture` gave.

    Raises:
        ArgumentError: If that is not such a description.
    """
    try:
        kind = NETWORKS[architecture["network"]]
        features = {task: FeatureMap(**target) for task, target in architecture["features"].items()}
        return kind(architecture["widths"], features=features, channels=architecture["channels"])
    except VCMError:
        raise
    except Exception as error:
        expected = f"what MultiTaskNetwork.architecture() gives, of {', '.join(NETWORKS)}"
        raise ArgumentError("architecture", expected=expected, got=architecture) from error


def save_network(network: MultiTaskNetwork, path: str | Path, **notes: str) -> None:
    """Write a network to a safetensors file, its tables in step with its weights.

    Args:
        network: What to save.
        path: The file; its folder must exist.
        notes: More to say about it, kept in the file's metadata.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {**notes, _KEY: json.dumps(network.architecture()), _SHA256: state_sha256(state)}
    partial = Path(path).with_name(Path(path).name + ".partial")
    save_file(state, partial, metadata)
    partial.replace(path)


def load_network(path: str | Path) -> MultiTaskNetwork:
    """Read a network that `save_network` wrote, in evaluation mode, on the CPU.

    Raises:
        WeightsError: If the file is missing, damaged or something else.
    """
    with _opened(path) as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    if metadata.get(_SHA256, "") not in ("", state_sha256(state)):
        raise WeightsError(f"{path} is damaged: its weights do not have the SHA-256 that it says they have.")
    try:
        network = build_network(json.loads(metadata[_KEY]))
        network.load_state_dict(state)
    except (ArgumentError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} does not hold the network that it says it holds: {error}") from error
    return network.eval()


def read_notes(path: str | Path) -> dict[str, str]:
    """The notes that `save_network` wrote with a network.

    Raises:
        WeightsError: If the file is missing, damaged or something else.
    """
    with _opened(path) as file:
        return {name: note for name, note in file.metadata().items() if name not in (_KEY, _SHA256)}


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
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
