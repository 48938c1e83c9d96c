"""Cache of frozen networks' outputs for validation images."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")
_MAX_BYTES = 1 << 28


class Memory(Generic[Value]):
    """Keep what a function gives for each image, by the image's content; the oldest use is dropped first.

    Args:
        max_bytes: Of all tensors that are kept; a value that is larger alone is not kept.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._kept: OrderedDict[bytes, tuple[Value, int]] = OrderedDict()

    def __call__(self, image: Tensor, compute: Callable[[], Value], name: str = "") -> Value:
        """Return what `compute` gave for this image before, or what it gives now.

        Args:
            image: Any tensor; what `compute` depends on, beside what never changes.
            compute: Called where nothing is kept.
            name: The image's, where two of equal pixels may differ in something else, such as labels.
        """
        key = _key(image, name)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        value = compute()
        size = _num_bytes(value)
        if size <= self.max_bytes:
            self._kept[key] = (value, size)
            self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            _, (_, dropped) = self._kept.popitem(last=False)
            self.num_bytes -= dropped
        return value


def _key(image: Tensor, name: str) -> bytes:
    described = f"{tuple(image.shape)} {image.dtype} {image.device} {name}".encode()
    content = image.detach().cpu().contiguous().flatten().view(torch.uint8)  # NumPy has no bfloat16
    return hashlib.sha256(described + content.numpy().tobytes()).digest()


def _num_bytes(value: object) -> int:
    """Of all tensors in nested mappings, sequences and dataclasses."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return sum(_num_bytes(part) for part in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return sum(_num_bytes(part) for part in value)
    return 0
