"""Entropy coding of symbols with CompressAI's range coder.

The range coder does not check its input: with fewer than three symbols the encoder writes past its buffer,
with symbols beyond 2^27 it never returns, and the decoder reads past the end of forged bytes. This module
keeps both within bounds, and processes a limited number of symbols at a time.
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
"""Minimum number of symbols; fewer are padded with copies of the last one."""
_PRECISION = 16
_CHUNK = 1 << 18
"""Number of symbols held as Python numbers at a time; lists take ten times the memory of tensors."""


@dataclass(frozen=True, eq=False)
class CodingTable:
    """Cumulative distributions in the form of the range coder.

    Attributes:
        rows: Cumulative distributions, of different lengths.
        lengths: Length of each row.
        offsets: First symbol of each row.
    """

    rows: list[list[int]]
    lengths: list[int]
    offsets: list[int]

    @classmethod
    def of(cls, model: EntropyModel) -> CodingTable:
        """Convert the tables of a CompressAI entropy model, and trim each row to its length.

        Raises:
            ArgumentError: If the tables are invalid for the range coder.
        """
        check_tables(model)
        lengths = model.cdf_length.flatten().tolist()
        rows = [row[:length].tolist() for row, length in zip(model.quantized_cdf.cpu(), lengths, strict=True)]
        return cls(rows, lengths, model.offset.flatten().tolist())

    @cached_property
    def fewest_bits(self) -> Tensor:
        """Cost in bits of each row's most probable symbol, (rows,) float64."""
        widest = [max(after - before for before, after in pairwise(row)) for row in self.rows]
        return torch.tensor([_PRECISION - math.log2(width) for width in widest], dtype=torch.float64)

    def upto(self, index: int) -> tuple[list[list[int]], list[int], list[int]]:
        """Return the rows needed for indexes up to and including this one."""
        return self.rows[: index + 1], self.lengths[: index + 1], self.offsets[: index + 1]


def encode_symbols(symbols: Tensor, indexes: Tensor, table: CodingTable) -> bytes:
    """Encode symbols in order.

    Args:
        symbols: Integers (C, h, w).
        indexes: Table row of each symbol, (C, h, w) int32.
        table: Table that `indexes` refer to.

    Raises:
        CodecError: If a symbol is not finite or its magnitude exceeds `MAX_SYMBOL`.
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
    """Check a latent, or its symbols, before entropy coding.

    Raises:
        CodecError: If a value is not finite or its magnitude exceeds `MAX_SYMBOL`.
    """
    low, high = latent.detach().aminmax()
    largest = max(-float(low), float(high))  # aminmax returns NaN for both if there is one
    if not largest <= MAX_SYMBOL:
        raise CodecError(
            f"the network's latent has values up to {largest:g}, and at most {MAX_SYMBOL} can be coded. "
            "The model is not properly trained."
        )


def check_section(data: bytes) -> None:
    """Raise BitstreamError if no output of `encode_symbols` has this length."""
    if len(data) < SHORTEST or len(data) % _WORD:
        raise BitstreamError(
            f"a section of the stream has {len(data)} bytes; the length must be a multiple of {_WORD} and "
            f"at least {SHORTEST}."
        )


class Budget:
    """Compares the minimum size of coded symbols with the bytes of a section.

    Args:
        data: The section.
        table: Table that it is coded with.
    """

    def __init__(self, data: bytes, table: CodingTable) -> None:
        self.bytes, self.table = len(data), table
        self.symbols, self.needed = 0, 0.0

    def spend(self, indexes: Tensor) -> None:
        """Add symbols with these table rows.

        Raises:
            BitstreamError: If the section is too short for all added symbols.
        """
        counts = torch.bincount(indexes.flatten(), minlength=len(self.table.rows)).double().cpu()
        self.symbols += indexes.numel()
        self.needed += float(counts @ self.table.fewest_bits) / 8
        if self.needed * (1 - 1e-3) > self.bytes:
            raise BitstreamError(
                f"the stream is damaged: a section has {self.bytes} bytes, and {self.symbols} symbols need "
                f"at least {self.needed:.0f}."
            )


def decode_symbols(data: bytes, indexes: Tensor, table: CodingTable) -> Tensor:
    """Decode the symbols coded with these indexes, to (C, h, w) float32 on the CPU.

    Raises:
        BitstreamError: If `data` cannot be an output of `encode_symbols`.
    """
    check_section(data)
    Budget(data, table).spend(indexes)
    flat = indexes.flatten()
    rows = table.upto(int(flat.max()))
    decoder = ans.RansDecoder()
    decoder.set_stream(guarded(data, flat.numel()))
    symbols = torch.empty(flat.numel())
    for part, target in zip(torch.split(flat, _CHUNK), torch.split(symbols, _CHUNK), strict=True):
        # Through NumPy, which converts lists three times as fast as torch.
        values = np.array(decoder.decode_stream(part.tolist(), *rows), dtype=np.int32)
        target.copy_(torch.from_numpy(values))
        if target.abs().max() > MAX_SYMBOL:
            raise BitstreamError(f"the stream is damaged: it has symbols beyond {MAX_SYMBOL}.")
    return symbols.view(indexes.shape)


def guarded(data: bytes, num_symbols: int) -> bytes:
    """Append enough zeros that a decoder of a forged stream does not read past the end.

    Ordinary symbols take at most two bytes. A rare symbol states its length in groups of four bits, in which
    a group of ones adds 15 groups; all of the data may do so once.
    """
    return data + bytes(16 * len(data) + 4 * num_symbols + 1024)
