"""Tiled inference on large images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor


class Tile(NamedTuple):
    """Rows and columns of one tile, as slices of the last two dimensions.

    Attributes:
        source: Tile with its halo in the input.
        inner: Tile without its halo in the transform's output.
        target: Tile in the complete output.
    """

    source: tuple[slice, slice]
    inner: tuple[slice, slice]
    target: tuple[slice, slice]


def tiles(height: int, width: int, *, tile: int, halo: int, scale: float) -> Iterator[Tile]:
    """Divide an area of height × width into tiles of at most `tile` × `tile`; see `in_tiles`."""
    for top, bottom in _spans(height, tile):
        for left, right in _spans(width, tile):
            above, before = max(top - halo, 0), max(left - halo, 0)
            yield Tile(
                (slice(above, min(bottom + halo, height)), slice(before, min(right + halo, width))),
                (
                    _scaled(top - above, bottom - above, scale),
                    _scaled(left - before, right - before, scale),
                ),
                (_scaled(top, bottom, scale), _scaled(left, right, scale)),
            )


def in_tiles(
    transform: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, halo: int, scale: float
) -> Tensor:
    """Compute `transform(x)` in tiles of at most (tile + 2·halo)² positions of `x`.

    The result is that of a single call, up to the rounding of floating-point sums, if no output depends on
    positions of `x` further than `halo` away.

    Args:
        transform: Function from (1, C, h, w) to (1, C', h·scale, w·scale) for all h and w that share the
            divisors of `tile`.
        x: (1, C, H, W).
        tile: Side of a tile in positions of `x`; `tile`·`scale` must be an integer.
        halo: Positions around a tile that are computed with it and discarded; `halo`·`scale` must be an
            integer.
        scale: Size of the output relative to `x`.
    """
    height, width = x.shape[-2:]
    if height <= tile and width <= tile:
        return transform(x)
    out: Tensor | None = None
    for source, inner, target in tiles(height, width, tile=tile, halo=halo, scale=scale):
        piece = transform(x[(..., *source)])
        if out is None:
            out = piece.new_empty(1, piece.shape[1], round(height * scale), round(width * scale))
        out[(..., *target)] = piece[(..., *inner)]
    assert out is not None
    return out


def _spans(length: int, tile: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, tile):
        yield start, min(start + tile, length)


def _scaled(start: int, stop: int, scale: float) -> slice:
    return slice(round(start * scale), round(stop * scale))
