"""Entropy-coder tables that follow a network's weights, and fingerprints of models."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from compressai.entropy_models.entropy_models import EntropyModel
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.nn.weights import content, state_sha256
from vcm.types import Settings

if TYPE_CHECKING:
    from typing_extensions import Self

FINGERPRINT_BYTES = 8


class TabledNetwork(nn.Module, ABC):
    """Network with entropy-coder tables for several tasks.

    Tables are integer buffers. They are recomputed before saving and coding if weights have changed, and read
    unchanged from a complete checkpoint, so that a file codes the same on every machine. Casting to another
    precision does not change them.

    Args:
        tasks: Names of the tasks.
    """

    fingerprints: Tensor

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.tasks = tasks
        self.register_buffer("fingerprints", torch.zeros(len(tasks), FINGERPRINT_BYTES, dtype=torch.uint8))
        self._in_step_with: bytes | None = None
        self._loaded_whole = False
        self.register_state_dict_pre_hook(_update_before_saving)  # type: ignore[no-untyped-call]  # torch
        self.register_load_state_dict_post_hook(_trust_after_loading)  # type: ignore[no-untyped-call]  # torch

    @abstractmethod
    def update_tables(self) -> None:
        """Compute all tables from the weights; called by `update` if needed."""

    @abstractmethod
    def check_tables(self) -> None:
        """Check all tables.

        Raises:
            ArgumentError: If a range coder could not work with one.
        """

    @abstractmethod
    def decoding_state(self, task: str) -> Iterable[Tensor]:
        """Yield all tensors that decode the task's stream."""

    @abstractmethod
    def decoded_kind(self, task: str) -> Settings | None:
        """Return the kind of the task's decoded output, as plain JSON values."""

    def index(self, task: str) -> int:
        """Return the index of the task's width, from 0.

        Raises:
            ArgumentError: If there is no such task.
        """
        if task not in self.tasks:
            raise ArgumentError("task", expected=f"one of {', '.join(self.tasks)}", got=task)
        return self.tasks.index(task)

    @torch.no_grad()
    def update(self, *, force: bool = False) -> bool:
        """Update the entropy-coder tables if weights have changed; return whether they had.

        Args:
            force: Whether to recompute them if no weight has changed.

        Raises:
            ArgumentError: If the weights are not finite or have no valid tables.
        """
        digest = self._parameters_digest()
        if not force and self._in_step_with == digest:
            return False
        self.update_tables()
        for number, task in enumerate(self.tasks):
            self.fingerprints[number].copy_(torch.frombuffer(self._fingerprint(task), dtype=torch.uint8))
        self._in_step_with = digest
        return True

    def fingerprint(self, task: str) -> bytes:
        """Return eight bytes that identify the model for streams of this task."""
        self.update()
        return bytes(self.fingerprints[self.index(task)].tolist())

    def weights_sha256(self) -> str:
        """SHA-256 of all weights and tables, in hexadecimal."""
        return state_sha256(self.state_dict())

    def _fingerprint(self, task: str) -> bytearray:
        kind = [type(self).__name__, task, self.decoded_kind(task)]
        digest = hashlib.sha256(json.dumps(kind, sort_keys=True).encode())
        for tensor in self.decoding_state(task):
            digest.update(f"{tuple(tensor.shape)}".encode())
            digest.update(content(tensor.float() if tensor.is_floating_point() else tensor))
        return bytearray(digest.digest()[:FINGERPRINT_BYTES])

    def _parameters_digest(self) -> bytes:
        """Return a digest of all weights."""
        digest = hashlib.sha256()
        for parameter in self.parameters():
            digest.update(content(parameter))
        return digest.digest()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast; up-to-date tables are kept."""
        in_step = self._in_step_with is not None and self._in_step_with == self._parameters_digest()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        if in_step:
            self._in_step_with = self._parameters_digest()
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:  # noqa: ANN401  torch's own signature
        """Resize tables to those of the state dict, before children load theirs."""
        names = [name for name, _ in (*self.named_parameters(), *self.named_buffers())]
        self._loaded_whole = all(prefix + name in state_dict for name in names)
        for name, module in self.named_modules():
            if isinstance(module, EntropyModel):
                for buffer in ("_offset", "_quantized_cdf", "_cdf_length"):
                    saved = state_dict.get(f"{prefix}{name}.{buffer}")
                    if saved is not None:
                        setattr(module, buffer, getattr(module, buffer).new_empty(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _trust_tables(self) -> None:
        """Accept the tables of a state dict if they belong to its weights.

        Raises:
            ArgumentError: If they belong to its weights, but are invalid for a range coder.
        """
        own = (bytes(self._fingerprint(task)) for task in self.tasks)
        fit = self._loaded_whole and [*own] == [bytes(row) for row in self.fingerprints.tolist()]
        if fit:
            self.check_tables()
        self._in_step_with = self._parameters_digest() if fit else None


def _trust_after_loading(module: nn.Module, incompatible_keys: object) -> None:
    del incompatible_keys
    assert isinstance(module, TabledNetwork)
    module._trust_tables()


def _update_before_saving(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    del prefix, keep_vars
    assert isinstance(module, TabledNetwork)
    module.update()
