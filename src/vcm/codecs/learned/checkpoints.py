"""Load checkpoints of CompressAI's networks from untrusted files.

```
weights by name                                  as in CompressAI, also with prefix "module.", "network.", …
{"state_dict": weights, "epoch": …, "loss": …}   or under another key such as "net_state_dict", also nested
```

In addition to weights, a checkpoint may contain anything that `torch.load(weights_only=True)` accepts, and
NumPy scalars and numeric arrays, whose values are ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.entropy_models.entropy_models import EntropyModel
from compressai.models.base import get_scale_table
from compressai.zoo.image import model_architectures
from compressai.zoo.pretrained import load_pretrained
from torch import Tensor

from vcm.errors import WeightsError
from vcm.files import MAX_WEIGHTS_BYTES, open_regular, printable, stream_sha256
from vcm.nn.coder import CodingTable, check_latent, decode_symbols
from vcm.nn.entropy import check_tables, update_bottleneck
from vcm.nn.weights import at_most, check_values, load_tensors

_FIRST_LAYER = "g_a.0."
"""Prefix of a weight that every architecture has, used to find name prefixes."""
_FIRST_CHOICE = ("state_dict", "net_state_dict", "model_state_dict", "network", "model", "net")
_MAX_DEPTH = 4
_SHOWN = 8


def read_checkpoint(architecture: str, path: str) -> tuple[Any, str]:
    """Load a CompressAI network in evaluation mode with entropy tables; also return its file's SHA-256.

    Args:
        architecture: CompressAI's name, such as "bmshj2018-hyperprior".
        path: The checkpoint, at most 8 GiB.

    Raises:
        WeightsError: If the file cannot be read, does not contain weights of this architecture, or contains
            weights or tables that no trained network has.
    """
    kinds = {name.replace("_", "-"): kind for name, kind in model_architectures.items()}
    try:
        with open_regular(path, limit=MAX_WEIGHTS_BYTES) as file:
            size = os.fstat(file.fileno()).st_size
            digest = stream_sha256(file)
            state = load_pretrained(_find(_load(file)))
        with at_most(size // 2):  # a number has at least two bytes
            network = kinds[architecture].from_state_dict(state).eval()
        check_values(network.state_dict())
        for name, model in network.named_modules():
            if isinstance(model, EntropyModel):
                _prepare(model, name)
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = printable(reason.partition("\n")[0])
        raise WeightsError(
            f"{path} cannot be read as a checkpoint of {architecture}: {type(error).__name__}: {reason}"
        ) from error
    return network, digest


class _Ignored:
    """Placeholder for a NumPy dtype or array; a class, because their pickled form has a state."""

    def __init__(self, *arguments: object) -> None:
        del arguments

    def __setstate__(self, state: object) -> None:
        del state


def _scalar(*arguments: object) -> None:
    """Placeholder for a NumPy scalar, which is not needed."""
    del arguments


def _numpy_values() -> AbstractContextManager[object]:
    """Let `weights_only` accept NumPy scalars and arrays as placeholders; no NumPy code runs."""
    allowing = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
    if allowing is None:
        return nullcontext()
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    ignored = {"numpy.dtype", "numpy.ndarray", *(f"numpy.dtypes.{kind}DType" for kind in _DTYPES)}
    ignored |= {f"{module}._reconstruct" for module in modules}
    context: AbstractContextManager[object] = allowing(
        [
            *((_scalar, f"{module}.scalar") for module in modules),
            *((_Ignored, name) for name in sorted(ignored)),
        ]
    )
    return context


def _load(file: BinaryIO) -> object:
    """Load the content of a checkpoint.

    Raises:
        WeightsError: If it contains an object that could only be restored by running code.
        Exception: Any error of `load_tensors`.
    """
    try:
        with _numpy_values():
            return load_tensors(file)
    except UnpicklingError as error:
        found = _GLOBAL.search(str(error))
        if found is None:
            raise
        raise WeightsError(
            f"it contains an object of {found[1]}, which cannot be loaded without running code; save only "
            "the state dict: torch.save(network.state_dict(), path)"
        ) from error


_GLOBAL = re.compile(r"GLOBAL '?([\w.]{1,80})")
"""Extracts the rejected name from torch's error message."""
_DTYPES = ("Float64", "Float32", "Float16", "Int64", "Int32", "Bool")


def _find(loaded: object) -> dict[str, Tensor]:
    """Find the weights in a checkpoint and strip their name prefix.

    Raises:
        WeightsError: If there are none; the message lists the keys.
    """
    for candidate in _mappings(loaded, 0):
        tensors = {str(name): value for name, value in candidate.items() if isinstance(value, Tensor)}
        for name in tensors:
            prefix, found, _ = name.partition(_FIRST_LAYER)
            if found and (not prefix or prefix.endswith(".")):
                return {
                    key.removeprefix(prefix): value
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"it contains a {type(loaded).__name__} instead of weights by name")
    keys = ", ".join(repr(key)[:80] for key in list(loaded)[:_SHOWN])
    more = f" and {len(loaded) - _SHOWN} more" if len(loaded) > _SHOWN else ""
    raise WeightsError(
        f"it contains no weight named {_FIRST_LAYER}*, which every CompressAI network has; its keys are "
        f"{keys}{more}"
    )


def _mappings(value: object, depth: int) -> Iterator[Mapping[Any, Any]]:
    """Yield a mapping and its nested mappings, common keys first."""
    if not isinstance(value, Mapping) or depth > _MAX_DEPTH:
        return
    yield value
    first = [value[name] for name in _FIRST_CHOICE if name in value]
    for inner in (*first, *value.values()):
        yield from _mappings(inner, depth + 1)


def _prepare(model: EntropyModel, name: str) -> None:
    """Update an entropy model's tables if the checkpoint has none, validate them, and add bounds checks."""
    if isinstance(model, EntropyBottleneck):
        if not model.offset.numel():
            update_bottleneck(model)
        model.__class__ = _CheckedBottleneck
    else:
        model.update_scale_table(get_scale_table())  # does nothing if there are tables
        model.__class__ = _CheckedConditional
    check_tables(model, f"the tables of {name}")


@contextmanager
def spending(spend: Callable[[Tensor], None]) -> Iterator[None]:
    """Pass the table rows of a Gaussian conditional's symbols to `spend` before decoding, in this thread."""
    token = _spend.set(spend)
    try:
        yield
    finally:
        _spend.reset(token)


_spend: ContextVar[Callable[[Tensor], None] | None] = ContextVar("_spend", default=None)


class _Checked(EntropyModel):  # type: ignore[misc]  # CompressAI is untyped
    """Entropy model with a bounds-checked range coder; see `vcm.nn.coder`."""

    def quantize(self, inputs: Tensor, mode: str, means: Tensor | None = None) -> Tensor:
        """Quantize like CompressAI, after checking the latent."""
        if mode == "symbols":
            check_latent(inputs if means is None else inputs - means)
        quantized: Tensor = super().quantize(inputs, mode, means)
        return quantized

    def decompress(
        self,
        strings: Sequence[bytes],
        indexes: Tensor,
        dtype: torch.dtype = torch.float,
        means: Tensor | None = None,
    ) -> Tensor:
        """Decompress like CompressAI.

        Raises:
            BitstreamError: If a string is too short for its symbols, or contains symbols out of range.
        """
        table, rows = CodingTable.of(self), indexes.cpu()
        symbols = [decode_symbols(string, part, table) for string, part in zip(strings, rows, strict=True)]
        decoded: Tensor = self.dequantize(torch.stack(symbols).to(indexes.device), means, dtype)
        return decoded


class _CheckedBottleneck(EntropyBottleneck, _Checked):  # type: ignore[misc]  # CompressAI is untyped
    """Bounds-checked entropy bottleneck."""


class _CheckedConditional(GaussianConditional, _Checked):  # type: ignore[misc]  # CompressAI is untyped
    """Bounds-checked Gaussian conditional."""

    def build_indexes(self, scales: Tensor) -> Tensor:
        """Build indexes like CompressAI, by binary search, and pass them to the callback of `spending`."""
        bounded = self.lower_bound_scale(scales).contiguous()
        indexes = torch.bucketize(bounded, self.scale_table[:-1].contiguous(), out_int32=True)
        if (spend := _spend.get()) is not None:
            spend(indexes)
        return indexes
