"""SHA-256 of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict's names and tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(content(tensor))
    return digest.hexdigest()


def content(tensor: Tensor) -> bytes:
    """The tensor's elements as they lie in memory, in order."""
    data: bytes = tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes()
    return data
