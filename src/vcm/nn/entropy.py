"""Entropy-coder tables: bounded computation from weights, and checks before range coding.

CompressAI's range coder checks nothing: a table that does not rise from 0 to 2^16 makes it divide by zero,
read beyond its memory or loop for ever.
"""

from __future__ import annotations

import math

import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.entropy_models.entropy_models import EntropyModel

from vcm.errors import ArgumentError

MAX_SYMBOL = 1 << 20
"""Largest magnitude of a symbol that is coded; trained networks stay far below."""
MAX_SUPPORT = 1 << 11
"""Largest distance between a channel's quantiles; trained networks stay at some hundreds. The time that
CompressAI takes for a row grows with its square.
"""
MAX_ENTRIES = 1 << 18
"""Most values that the rows of one model's tables have in total."""
_MAX_PADDED = 1 << 20
"""Most values of tables whose rows are padded to the longest."""
_TOTAL = 1 << 16
_SHORTEST = 3  # 0, the one symbol, and the rare ones
_LONGEST = _TOTAL + 1


def check_tables(model: EntropyModel, name: str = "tables") -> None:
    """Check the tables of one of CompressAI's entropy models.

    Args:
        model: Entropy model with tables.
        name: Name of the tables in errors.

    Raises:
        ArgumentError: Unless there is one row per channel or scale, each starts at 0, ascends strictly to
            2^16 at its length and has an offset within ±2^20, and all have at most `MAX_ENTRIES` values.
    """
    rows = model.channels if isinstance(model, EntropyBottleneck) else len(model.scale_table)
    cdf, lengths, offsets = model.quantized_cdf, model.cdf_length, model.offset
    shapes = [tuple(tensor.shape) for tensor in (cdf, lengths, offsets)]
    if cdf.ndim != 2 or not cdf.numel() or [shapes[0][:1], *shapes[1:]] != [(rows,)] * 3:
        raise _error(name, f"{rows} rows, each with its length and offset", f"shapes {shapes}")
    low, high = int(lengths.min()), int(lengths.max())
    if low < _SHORTEST or high > min(cdf.shape[1], _LONGEST):
        longest = min(cdf.shape[1], _LONGEST)
        raise _error(name, f"rows of {_SHORTEST} to {longest} values", f"{low} to {high}")
    _check_entries(name, int(lengths.sum()), cdf.numel())
    ends = cdf.gather(1, lengths.long()[:, None] - 1)
    beyond = torch.arange(1, cdf.shape[1], device=cdf.device) >= lengths[:, None]
    rising = (cdf.diff(dim=1) > 0) | beyond
    if cdf[:, 0].any() or (ends != _TOTAL).any() or not rising.all():
        raise _error(name, f"rows that rise strictly from 0 to {_TOTAL}", "others")
    if offsets.min() < -MAX_SYMBOL or offsets.max() > MAX_SYMBOL:
        raise _error(name, f"offsets within +-{MAX_SYMBOL}", f"{int(offsets.min())} to {int(offsets.max())}")


@torch.no_grad()
def update_bottleneck(bottleneck: EntropyBottleneck, *, force: bool = True) -> None:
    """Compute the tables of an entropy bottleneck from its weights.

    Args:
        bottleneck: Entropy bottleneck whose tables are replaced.
        force: Whether to replace existing tables.

    Raises:
        ArgumentError: If weights are not finite, quantiles are further apart than `MAX_SUPPORT`, or tables
            would have more than `MAX_ENTRIES` values.
    """
    if not all(parameter.isfinite().all() for parameter in bottleneck.parameters()):
        raise _error("weights", "finite", "NaN or infinite ones in an entropy bottleneck")
    quantiles = bottleneck.quantiles.double()
    spreads = quantiles.amax(dim=2) - quantiles.amin(dim=2)
    spread = float(spreads.max())
    if spread > MAX_SUPPORT or float(quantiles.abs().max()) > MAX_SYMBOL:
        raise _error(
            "quantiles",
            f"at most {MAX_SUPPORT} apart and within +-{MAX_SYMBOL}",
            f"{spread:g} apart, up to {float(quantiles.abs().max()):g}",
        )
    longest = (math.ceil(spread) + _SHORTEST) * len(spreads)
    _check_entries("quantiles", int((spreads.ceil() + _SHORTEST).sum()), longest)
    try:
        bottleneck.update(force=force)
    except ValueError as error:  # probabilities that overflowed
        raise _error("weights", "those of a trained entropy bottleneck", str(error)) from error


def _check_entries(name: str, entries: int, padded: int) -> None:
    """Check the total size of tables, unpadded and padded to the longest row."""
    if entries > MAX_ENTRIES or padded > _MAX_PADDED:
        raise _error(
            name,
            f"tables of at most {MAX_ENTRIES} values, or {_MAX_PADDED} with every row as long as the longest",
            f"{entries}, or {padded}",
        )


def _error(what: str, expected: str, got: str) -> ArgumentError:
    return ArgumentError(
        what,
        expected=expected,
        got=got,
        remedy="The model file is damaged or forged, or training diverged: use another one.",
    )
