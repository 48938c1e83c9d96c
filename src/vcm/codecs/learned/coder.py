"""Symbols to bytes and back, by CompressAI's range coder.

That coder checks nothing: its encoder overruns its buffer if there are fewer than three symbols and never
returns from symbols beyond 2^27, and its decoder reads on past the end of bytes that nobody encoded. Both are
kept within bounds here, and work on some symbols at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from compressai import ans
from torch import Tensor

from vcm.errors import BitstreamError, CodecError
from vcm.nn.entropy import MAX_SYMBOL, check_tables

if TYPE_CHECKING:
    from compressai.entropy_models.entropy_models import EntropyModel

_WORD = 4
SHORTEST = 2 * _WORD
_FEWEST = 4
"""Fewer symbols than these are filled up with copies of the last."""
_PRECISION = 16
_CHUNK = 1 << 18
"""Symbols that are Python numbers at a time: as lists, they take ten times the memory."""


@dataclass(frozen=True, eq=False)
class CodingTable:
    """Cumulative distributions in the form that the range coder takes.

    Attributes:
        rows: One cumulative distribution a row, of different lengths.
        lengths: Their lengths.
        offsets: The symbol that each row begins with.
    """

    rows: list[list[int]]
    lengths: list[int]
    offsets: list[int]

    @classmethod
    def of(cls, model: EntropyModel) -> CodingTable:
        """The tables of one of CompressAI's entropy models, each row cut to its length.

        Raises:
            ArgumentError: If the range coder could not work with them.
        """
        check_tables(model)
        lengths = model.cdf_length.flatten().tolist()
        rows = [row[:length].tolist() for row, length in zip(model.quantized_cdf.cpu(), lengths, strict=True)]
        return cls(rows, lengths, model.offset.flatten().tolist())

    @cached_property
    def fewest_bits(self) -> Tensor:
        """What each row's most probable symbol costs: (rows,) float64."""
        widest = [max(after - before for before, after in pairwise(row)) for row in self.rows]
        return torch.tensor([_PRECISION - math.log2(width) for width in widest], dtype=torch.float64)

    def upto(self, index: int) -> tuple[list[list[int]], list[int], list[int]]:
        """The rows that indexes up to this one need."""
        return self.rows[: index + 1], self.lengths[: index + 1], self.offsets[: index + 1]


def encode_symbols(symbols: Tensor, indexes: Tensor, table: CodingTable) -> bytes:
    """Code symbols in order.

    Args:
        symbols: (C, h, w), whole numbers.
        indexes: (C, h, w) int32, the row of each symbol.
        table: What `indexes` point into.

    Raises:
        CodecError: If a symbol is not finite or beyond `MAX_SYMBOL`.
    """
    values = symbols.detach().cpu()
    check_latent(values)
    whole, flat = values.int().flatten(), indexes.flatten()
    rows = table.upto(int(flat.max()))
    encoder = ans.BufferedRansEncoder()
    for numbers in zip(torch.split(whole, _CHUNK), torch.split(flat, _CHUNK), strict=True):
        encoder.encode_with_indexes(*(part.tolist() for part in numbers), *rows)
    missing = _FEWEST - len(flat)
    if missing > 0:
        encoder.encode_with_indexes(whole[-1:].tolist() * missing, flat[-1:].tolist() * missing, *rows)
    return bytes(encoder.flush())


def check_latent(latent: Tensor) -> None:
    """Check a latent, or its symbols, before the range coder sees them.

    Raises:
        CodecError: If a value is not finite or beyond `MAX_SYMBOL`.
    """
    low, high = latent.detach().aminmax()
    largest = max(-float(low), float(high))  # aminmax gives NaN twice where there is one
    if not largest <= MAX_SYMBOL:
        raise CodecError(
            f"the network's latent has values up to {largest:g}; at most {MAX_SYMBOL} can be coded. "
            "The model has not been trained properly."
        )


def check_section(data: bytes) -> None:
    """Raise BitstreamError if `encode_symbols` gives no bytes of this length, whatever the symbols are."""
    if len(data) < SHORTEST or len(data) % _WORD:
        raise BitstreamError(
            f"a section of the stream has {len(data)} bytes; it must have a multiple of {_WORD}, "
            f"from {SHORTEST}."
        )


class Budget:
    """What symbols need at least, against the bytes that are there.

    Args:
        data: A section.
        table: What it is coded with.
    """

    def __init__(self, data: bytes, table: CodingTable) -> None:
        self.bytes, self.table = len(data), table
        self.symbols, self.needed = 0, 0.0

    def spend(self, indexes: Tensor) -> None:
        """Count symbols with these rows.

        Raises:
            BitstreamError: If the section is too short for all that were counted.
        """
        counts = torch.bincount(indexes.flatten(), minlength=len(self.table.rows)).double().cpu()
        self.symbols += indexes.numel()
        self.needed += float(counts @ self.table.fewest_bits) / 8
        if self.needed * (1 - 1e-3) > self.bytes:
            raise BitstreamError(
                f"the stream is damaged: a section has {self.bytes} bytes; {self.symbols} symbols need "
                f"{self.needed:.0f}."
            )


def decode_symbols(data: bytes, indexes: Tensor, table: CodingTable) -> Tensor:
    """The symbols that were coded with these indexes: (C, h, w) float32, on the CPU.

    Raises:
        BitstreamError: If `data` cannot be what `encode_symbols` gave.
    """
    check_section(data)
    Budget(data, table).spend(indexes)
    flat = indexes.flatten()
    rows = table.upto(int(flat.max()))
    decoder = ans.RansDecoder()
    decoder.set_stream(guarded(data, flat.numel()))
    symbols = torch.empty(flat.numel())
    for part, target in zip(torch.split(flat, _CHUNK), torch.split(symbols, _CHUNK), strict=True):
        # By way of NumPy, which takes lists three times as fast as torch.
        values = np.array(decoder.decode_stream(part.tolist(), *rows), dtype=np.int32)
        target.copy_(torch.from_numpy(values))
        if target.abs().max() > MAX_SYMBOL:
            raise BitstreamError(f"the stream is damaged: it has symbols beyond {MAX_SYMBOL}.")
    return symbols.view(indexes.shape)


def guarded(data: bytes, num_symbols: int) -> bytes:
    """The data with zeros after it, enough for a decoder that a forged stream sends past the end.

    Ordinary symbols take two bytes at most. A rare one states its own length in groups of four bits, a group
    of ones standing for 15 groups more: all of the data may say so once.
    """
    return data + bytes(16 * len(data) + 4 * num_symbols + 1024)
