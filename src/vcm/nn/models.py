"""Load model files of any network."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from vcm.errors import ArgumentError
from vcm.nn import importance, preprocessor, proxy, slimmable
from vcm.nn.plugins import network_kind
from vcm.nn.preprocessor import serialization as preprocessor_files
from vcm.nn.proxy import serialization as proxy_files
from vcm.nn.serialization import read_model, read_notes
from vcm.nn.slimmable import serialization as slimmable_files
from vcm.types import Settings

_FAMILIES = (
    (slimmable.MultiTaskNetwork, slimmable_files.build_network),
    (preprocessor.NPP, preprocessor_files.build_preprocessor),
    (proxy.Proxy, proxy_files.build_proxy),
    (importance.ImportanceNetwork, importance.build_importance),
)
_OWN: dict[str, type[nn.Module]] = {
    **slimmable_files.NETWORKS,
    **preprocessor_files.NETWORKS,
    **proxy_files.NETWORKS,
    importance.ImportanceNetwork.__name__: importance.ImportanceNetwork,
}


def load_model(path: str | Path) -> nn.Module:
    """Read the network of a model file, in evaluation mode, on the CPU.

    The file names the network's class: one of vcm's, or one that an installed package registers as an entry
    point of the group `vcm.networks`. A class outside vcm's families (`MultiTaskNetwork`, `NPP`, `Proxy`,
    `ImportanceNetwork`) is called with the rest of its `architecture()` as keyword arguments.

    Args:
        path: Model file of `vcm train` or of a network's own save function.

    Raises:
        ArgumentError: If `path` is neither a string nor a path object.
        WeightsError: If the file is missing, damaged, or names no network that is installed here.
    """
    network = read_model(path, "a network", _build)
    if isinstance(network, proxy.Proxy):
        return proxy_files.with_codec_settings(network, path)
    if isinstance(network, slimmable.MultiTaskNetwork):
        network.notes = read_notes(path)
    return network


def _build(architecture: Settings) -> nn.Module:
    kind = network_kind(architecture.get("network"), _OWN, nn.Module)
    for family, build in _FAMILIES:
        if issubclass(kind, family):
            return build(architecture)
    arguments = {name: value for name, value in architecture.items() if name != "network"}
    try:
        return kind(**arguments)
    except TypeError as error:
        raise ArgumentError(
            "architecture", expected=f"arguments of {kind.__name__}", got=str(error)
        ) from error
