"""Symbols to bytes and back, by CompressAI's range coder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from compressai import ans
from torch import Tensor

from vcm.errors import BitstreamError, CodecError

if TYPE_CHECKING:
    from compressai.entropy_models.entropy_models import EntropyModel

MAX_SYMBOL = 1 << 20
"""Largest magnitude of a symbol that is coded; trained networks stay far below."""
_WORD = 4


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
        """The tables of one of CompressAI's entropy models, each row cut to its length."""
        lengths = model.cdf_length.flatten().tolist()
        rows = [row[:length].tolist() for row, length in zip(model.quantized_cdf.cpu(), lengths, strict=True)]
        return cls(rows, lengths, model.offset.flatten().tolist())

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
    largest = values.abs().max()
    if not largest <= MAX_SYMBOL:  # NaN is not, either
        raise CodecError(
            f"the network's latent has values up to {float(largest):g}; at most {MAX_SYMBOL} can be coded. "
            "The model has not been trained properly."
        )
    flat = indexes.flatten()
    rows = table.upto(int(flat.max()))
    return bytes(ans.RansEncoder().encode_with_indexes(values.int().flatten().tolist(), flat.tolist(), *rows))


def decode_symbols(data: bytes, indexes: Tensor, table: CodingTable) -> Tensor:
    """The symbols that were coded with these indexes: (C, h, w) float32, on the CPU.

    Raises:
        BitstreamError: If `data` cannot be what `encode_symbols` gave.
    """
    if len(data) < _WORD or len(data) % _WORD:
        raise BitstreamError(
            f"a section of the stream has {len(data)} bytes; it must have a multiple of {_WORD}."
        )
    flat = indexes.flatten()
    rows = table.upto(int(flat.max()))
    values = ans.RansDecoder().decode_with_indexes(data, flat.tolist(), *rows)
    return torch.tensor(values, dtype=torch.float32).view(indexes.shape)
