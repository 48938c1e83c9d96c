"""Model files of slimmable networks."""

from __future__ import annotations

import reprlib
from pathlib import Path

import torch

from vcm.errors import ArgumentError, VCMError
from vcm.nn.plugins import network_kind
from vcm.nn.serialization import read_model, read_notes, write_model
from vcm.nn.slimmable.factorized import LatentScalable, SlimmableFactorized
from vcm.nn.slimmable.hyperprior import SlimmableHyperprior
from vcm.nn.slimmable.network import MultiTaskNetwork
from vcm.nn.slimmable.types import FeatureMap
from vcm.types import Settings

NETWORKS: dict[str, type[MultiTaskNetwork]] = {
    kind.__name__: kind for kind in (SlimmableFactorized, SlimmableHyperprior, LatentScalable)
}


def build_network(architecture: Settings) -> MultiTaskNetwork:
    """Build a network from the settings of `MultiTaskNetwork.architecture`.

    Raises:
        ArgumentError: If that is not such a description.
    """
    try:
        kind = network_kind(architecture["network"], NETWORKS, MultiTaskNetwork)
        features = {task: FeatureMap(**target) for task, target in architecture["features"].items()}
        rest = {name: value for name, value in architecture.items() if name not in ("network", "features")}
        return kind(features=features, **rest)
    except VCMError:
        raise
    except Exception as error:
        expected = f"what MultiTaskNetwork.architecture() gives, of {', '.join(NETWORKS)}"
        raise ArgumentError("architecture", expected=expected, got=reprlib.repr(architecture)) from error


def save_network(network: MultiTaskNetwork, path: str | Path, *, half: bool = False, **notes: str) -> None:
    """Write a network with updated tables to a safetensors file.

    Args:
        network: Network to save.
        path: File to write; its folder must exist.
        half: Whether to write weights as float16, which halves the file. The network's own weights are
            rounded too, so that its earlier streams no longer decode.
        notes: Further metadata of the file.
    """
    if half:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.copy_(parameter.half())
    state = network.state_dict()
    if half:
        state |= {name: parameter.detach().half() for name, parameter in network.named_parameters()}
    write_model(path, state, network.architecture(), notes)


def load_network(path: str | Path) -> MultiTaskNetwork:
    """Read a network and its metadata from a model file, in evaluation mode, on the CPU.

    Raises:
        WeightsError: If the file is missing, damaged or something else.
    """
    network = read_model(path, "a multi-task network", build_network)
    network.notes = read_notes(path)
    return network
