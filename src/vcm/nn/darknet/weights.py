"""Darknet weights files: a header of three or four numbers, then float32 values in layer order.

Header: int32 major, minor, revision; then the number of images seen in training, as uint64 from version
0.2 on and as int32 before. Per convolution, all little-endian float32: with batch normalization biases β,
scales γ, running means and running variances, without it biases; then the kernel as (filters,
channels/groups, size, size).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vcm.errors import ArgumentError, WeightsError
from vcm.files import MAX_WEIGHTS_BYTES, open_regular, replacing
from vcm.nn.darknet.layers import Convolutional
from vcm.nn.darknet.network import Darknet

_VERSION = struct.Struct("<3i")
_LONGEST_HEADER = _VERSION.size + 8


def read_weights(network: Darknet, path: str | Path) -> int:
    """Load a Darknet weights file; return the number of training images in its header.

    Raises:
        WeightsError: If the file is missing, truncated, too short or too long for this network (the message
            gives the layer and the number of values), or has impossible values.
        ArgumentError: If the network's normalization is folded.
    """
    groups = list(_tensors(network))
    needed = sum(tensor.numel() for _, tensors in groups for tensor in tensors.values())
    try:
        with open_regular(path, limit=MAX_WEIGHTS_BYTES) as file:
            size = os.fstat(file.fileno()).st_size
            if size > 4 * needed + _LONGEST_HEADER:  # refused without reading it
                header = file.read(_LONGEST_HEADER)
                _, offset = _read_header(header, path)
                _check_length(groups, (size - offset) // 4, path)
            data = file.read()
    except OSError as error:
        raise WeightsError(f"Weights file {path} cannot be read: {error.strerror or error}.") from error
    seen, offset = _read_header(data, path)
    if (len(data) - offset) % 4:
        raise WeightsError(
            f"Weights file {path} is damaged: {len(data)} bytes do not end on a whole float32 value."
        )
    values = torch.from_numpy(np.frombuffer(data, dtype="<f4", offset=offset).astype(np.float32))
    _check_length(groups, values.numel(), path)
    position = 0
    with torch.no_grad():
        for index, tensors in groups:
            for name, tensor in tensors.items():
                part = values[position : position + tensor.numel()]
                if not part.isfinite().all() or (name == "running variances" and (part < 0).any()):
                    raise WeightsError(
                        f"Weights file {path} does not belong to this cfg, or is damaged: impossible "
                        f"{name} in layer {index} (convolutional)."
                    )
                tensor.copy_(part.view_as(tensor))
                position += tensor.numel()
    return seen


def write_weights(
    network: Darknet, path: str | Path, *, seen: int = 0, version: tuple[int, int, int] = (0, 2, 0)
) -> None:
    """Write a Darknet weights file.

    Args:
        network: Network whose normalization is not folded.
        path: File to write.
        seen: Number of training images, for the header.
        version: Header version; `seen` has 64 bits from 0.2 on, 32 before.

    Raises:
        ArgumentError: If the network's normalization is folded, or `seen` does not fit the header.
    """
    layout = _seen_layout(version[0], version[1])
    if not 0 <= seen < 2 ** (8 * layout.size - (layout.size == 4)):
        raise ArgumentError("seen", expected=f"from 0 to what {layout.size} bytes hold", got=seen)
    with replacing(path) as file:
        file.write(_VERSION.pack(*version) + layout.pack(seen))
        for _, tensors in _tensors(network):
            for tensor in tensors.values():
                file.write(tensor.detach().cpu().numpy().astype("<f4").tobytes())


def _seen_layout(major: int, minor: int) -> struct.Struct:
    return struct.Struct("<Q" if major * 10 + minor >= 2 else "<i")


def _read_header(data: bytes, path: str | Path) -> tuple[int, int]:
    """Return the number of training images and the offset of the values."""
    if len(data) >= _VERSION.size:
        major, minor, _ = _VERSION.unpack_from(data)
        if not (0 <= major < 1000 and 0 <= minor < 1000):
            raise WeightsError(
                f"{path} is not a Darknet weights file: its header says version {major}.{minor}."
            )
        layout = _seen_layout(major, minor)
        if len(data) >= _VERSION.size + layout.size:
            return int(layout.unpack_from(data, _VERSION.size)[0]), _VERSION.size + layout.size
    raise WeightsError(
        f"{path} is not a Darknet weights file: {len(data)} bytes are less than its header takes."
    )


def _tensors(network: Darknet) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield the index of each convolution and its tensors by Darknet's names, in file order."""
    for index, layer in enumerate(network.layers):
        if not isinstance(layer, Convolutional):
            continue
        if layer.norm is not None:
            norm = layer.norm
            assert norm.running_mean is not None and norm.running_var is not None
            yield (
                index,
                {
                    "biases": norm.bias,
                    "scales": norm.weight,
                    "running means": norm.running_mean,
                    "running variances": norm.running_var,
                    "weights": layer.conv.weight,
                },
            )
        elif layer.folded:
            raise ArgumentError(
                "network",
                expected="a network with its normalization in place",
                got="one that was folded",
                remedy="Read or write weights before fold().",
            )
        else:
            assert layer.conv.bias is not None
            yield index, {"biases": layer.conv.bias, "weights": layer.conv.weight}


def _check_length(groups: list[tuple[int, dict[str, Tensor]]], available: int, path: str | Path) -> None:
    needed = 0
    short_at = None
    for index, tensors in groups:
        needed += sum(tensor.numel() for tensor in tensors.values())
        if needed > available and short_at is None:
            short_at = index
    remedy = "Give the weights file that was published with this cfg, and fetch it again if it is that one."
    if short_at is not None:
        raise WeightsError(
            f"Weights file {path} is too short for this cfg by {needed - available} values: it holds "
            f"{available} of {needed} and ends within layer {short_at} (convolutional). {remedy}"
        )
    if available > needed:
        raise WeightsError(
            f"Weights file {path} is too long for this cfg by {available - needed} values: it holds "
            f"{available}, and layer {groups[-1][0]}, the last convolutional, takes "
            f"the last of {needed}. {remedy}"
        )
