"""Checks and hashes of weights."""

from __future__ import annotations

import hashlib
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

import torch
from compressai.layers import GDN
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from vcm.errors import ArgumentError

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_TABLES = ("_offset", "_quantized_cdf", "_cdf_length")
_MAX_TABLE_COLUMNS = (1 << 16) + 1
_CONSTANTS = 1 << 16
"""Numbers that a network may hold beside those of its file: constants that are not saved."""


@contextmanager
def at_most(count: int, reason: str = "as many as the file holds") -> Iterator[None]:
    """Limit the number of weights of networks that are built in this context, before memory is allocated.

    Counts the parameters and buffers that this thread creates within the block.

    Args:
        count: Largest number of weights.
        reason: Reason for the limit, for the error.

    Raises:
        ArgumentError: If a network within the block needs more.
    """
    before = _budget.left, _budget.expected
    _budget.left = count + _CONSTANTS
    _budget.expected = f"that of a network of at most {count} weights, {reason}"
    try:
        yield
    finally:
        _budget.left, _budget.expected = before


class _Budget(threading.local):
    """Remaining number of weights of this thread, and the text of the error; None for no limit."""

    left: int | None = None
    expected = ""


_budget = _Budget()


def _take(module: nn.Module, name: str, tensor: Tensor | None) -> None:
    """Count a parameter or buffer that is registered."""
    if tensor is None or _budget.left is None:
        return
    # GDN makes its largest tensor, C x C, before it registers it, but after beta.
    needed = tensor.numel() ** (2 if isinstance(module, GDN) and name == "beta" else 1)
    if needed > _budget.left:
        raise ArgumentError("architecture", expected=_budget.expected, got="one of more")
    _budget.left -= tensor.numel()


# Once for all: torch iterates over its hooks, which must not change while another thread builds a network.
register_module_parameter_registration_hook(_take)
register_module_buffer_registration_hook(_take)


def check_shapes(network: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check the shapes of a state dict against a network, before the tensors are read.

    Args:
        network: Network to load the weights into.
        shapes: Shapes of the state dict's tensors; missing tensors are reported by `load_state_dict`.

    Raises:
        ArgumentError: If the network has no such tensor, or one of another shape. Entropy-coder tables may
            have any valid size.
    """
    own = _tensors(network)
    for name, shape in shapes.items():
        if name not in own:
            raise ArgumentError(
                "weights", expected=f"the network's {len(own)} tensors", got=f"{name}, which it does not have"
            )
        expected = tuple(own[name].shape)
        if name.rpartition(".")[2] in _TABLES:
            fits = len(shape) <= 2 and all(size <= _MAX_TABLE_COLUMNS for size in shape)
        else:
            fits = shape == expected
        if not fits:
            raise ArgumentError(f"{name}", expected=f"of shape {expected}, as the network's", got=shape)


def load_tensors(file: BinaryIO) -> object:
    """Load weights with `torch.load` on the CPU, in no more memory than the file's size.

    The checksums of a zip file are verified first, because torch's reader ignores them.

    Raises:
        ArgumentError: If a zip file declares a larger unpacked size, or a checksum does not match.
        Exception: Any exception of `torch.load`.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
            if unpacked > size:
                raise ArgumentError("weights", expected=f"at most the file's {size} bytes", got=unpacked)
            damaged = archive.testzip()
        if damaged is not None:
            raise ArgumentError("weights", expected="undamaged", got=f"a wrong checksum of {damaged}")
    file.seek(0)
    return torch.load(file, map_location="cpu", weights_only=True)


def check_values(state: Mapping[str, Tensor], network: nn.Module | None = None) -> None:
    """Check that weights are finite and of the network's types.

    Args:
        state: Tensors by name.
        network: Network to load the weights into, whose tensors determine the expected types.

    Raises:
        ArgumentError: If a weight is NaN or infinite in the network's precision, a running variance is
            negative, or a tensor is of integers instead of floats or the other way round.
    """
    own = {} if network is None else _tensors(network)
    for name, tensor in state.items():
        target = own[name].dtype if name in own else tensor.dtype
        kinds = _FLOATS if target in _FLOATS else _INTEGERS
        if tensor.dtype not in kinds or target not in kinds:
            raise ArgumentError(name, expected=f"a tensor that fits {target}", got=tensor.dtype)
        if not tensor.numel():
            continue
        low, high = tensor.aminmax() if target in _INTEGERS else tensor.to(target).aminmax()
        if target in _INTEGERS:
            bounds = torch.iinfo(target)
            if not bounds.min <= int(low) <= int(high) <= bounds.max:
                raise ArgumentError(
                    name, expected=f"{bounds.min} to {bounds.max}", got=f"{int(low)} to {int(high)}"
                )
        elif not (low.isfinite() and high.isfinite()):
            raise ArgumentError(
                name,
                expected="finite numbers",
                got="NaN or infinite ones",
                remedy="The file is damaged, or training diverged: use another one.",
            )
        elif name.endswith("running_var") and low < 0:
            raise ArgumentError(name, expected="variances from 0", got=float(low))


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, without the table update of `state_dict`."""
    return {
        **dict(network.named_parameters(remove_duplicate=False)),
        **dict(network.named_buffers(remove_duplicate=False)),
    }


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a state dict's names and tensors in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(content(tensor))
    return digest.hexdigest()


def content(tensor: Tensor) -> bytes:
    """Return the tensor's elements as bytes, in order."""
    data: bytes = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes()
    return data
