"""Model files of preprocessors."""

from __future__ import annotations

import reprlib
from pathlib import Path

from vcm.errors import ArgumentError, VCMError
from vcm.nn.plugins import network_kind
from vcm.nn.preprocessor.network import NPP, QuantizationAdaptiveNPP
from vcm.nn.serialization import read_model, write_model
from vcm.types import Settings

NETWORKS: dict[str, type[NPP]] = {kind.__name__: kind for kind in (NPP, QuantizationAdaptiveNPP)}


def build_preprocessor(architecture: Settings) -> NPP:
    """Build a preprocessor from the settings of `NPP.architecture`.

    Raises:
        ArgumentError: If that is not such a description.
    """
    try:
        settings = dict(architecture)
        kind = network_kind(settings.pop("network"), NETWORKS, NPP)
        if issubclass(kind, QuantizationAdaptiveNPP) and "rates" in settings:
            settings["lmbda_range"] = settings.pop("rates")
        return kind(**settings)
    except VCMError:
        raise
    except Exception as error:
        expected = f"what NPP.architecture() gives, of {', '.join(NETWORKS)}"
        raise ArgumentError("architecture", expected=expected, got=reprlib.repr(architecture)) from error


def save_preprocessor(network: NPP, path: str | Path, **notes: str) -> None:
    """Write a preprocessor to a safetensors file.

    Args:
        network: Preprocessor to save.
        path: File to write; its folder must exist.
        notes: Further metadata of the file.
    """
    write_model(path, network.state_dict(), network.architecture(), notes)


def load_preprocessor(path: str | Path) -> NPP:
    """Read a preprocessor from a model file, in evaluation mode, on the CPU.

    Raises:
        WeightsError: If the file is missing, damaged or something else.
    """
    return read_model(path, "a preprocessor", build_preprocessor)
