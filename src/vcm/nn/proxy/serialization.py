"""Model files of proxies."""

from __future__ import annotations

import reprlib
from pathlib import Path

from vcm.errors import ArgumentError, VCMError, WeightsError
from vcm.nn.plugins import network_kind
from vcm.nn.proxy.base import Proxy
from vcm.nn.proxy.identity import IdentityProxy
from vcm.nn.proxy.jpeg import JPEGProxy
from vcm.nn.proxy.learned import LearnedProxy
from vcm.nn.proxy.transform import TransformProxy
from vcm.nn.serialization import read_json, read_model, read_notes, write_model
from vcm.types import Settings

NETWORKS: dict[str, type[Proxy]] = {
    kind.__name__: kind for kind in (LearnedProxy, JPEGProxy, IdentityProxy, TransformProxy)
}


def build_proxy(architecture: Settings) -> Proxy:
    """Build a proxy from the settings of `Proxy.architecture`.

    Raises:
        ArgumentError: If that is not such a description.
    """
    try:
        settings = dict(architecture)
        return network_kind(settings.pop("network"), NETWORKS, Proxy)(**settings)
    except VCMError:
        raise
    except Exception as error:
        expected = f"what Proxy.architecture() gives, of {', '.join(NETWORKS)}"
        raise ArgumentError("architecture", expected=expected, got=reprlib.repr(architecture)) from error


def save_proxy(proxy: Proxy, path: str | Path, **notes: str) -> None:
    """Write a proxy to a safetensors file.

    Args:
        proxy: Proxy to save.
        path: File to write; its folder must exist.
        notes: Further metadata of the file.
    """
    write_model(path, proxy.state_dict(), proxy.architecture(), notes)


def load_proxy(path: str | Path, codec: str | None = None) -> Proxy:
    """Read a proxy from a model file, in evaluation mode, on the CPU.

    Args:
        path: Model file.
        codec: Name of the codec that the proxy must replace; None for any.

    Raises:
        WeightsError: If the file is missing, damaged or something else, or of another codec.
    """
    proxy = with_codec_settings(read_model(path, "a proxy", build_proxy), path)
    if codec not in (None, proxy.codec):
        raise WeightsError(f"{path} is a proxy of {proxy.codec}, not of {codec}; train one for {codec}.")
    return proxy


def with_codec_settings(proxy: Proxy, path: str | Path) -> Proxy:
    """Set a proxy's codec settings from its model file.

    Raises:
        WeightsError: If the note is damaged.
    """
    try:
        note = read_notes(path).get("codec_settings", "{}")
        proxy.codec_settings.update(read_json(note, "the note of the codec's settings"))
    except ArgumentError as error:
        raise WeightsError(f"{path} is damaged: {error}") from error
    return proxy
