"""Tiled inference on large images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch import Tensor


class Tile(NamedTuple):
    """Rows and columns of one tile, as slices of the last two dimensions.

    Attributes:
        source: What the transform is given: the tile and its halo.
        inner: The tile's own part of what the transform gives.
        target: Where that lies in the whole output.
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

    The result is the same as in one piece, up to the rounding of floating-point sums, if no output depends on
    places of `x` further than `halo` away.

    Args:
        transform: Takes (1, C, h, w), gives (1, C', h·scale, w·scale) wherever h and w are multiples of
            `tile`'s own divisors.
        x: (1, C, H, W).
        tile: Side of a tile, in places of `x`; times `scale` a whole number.
        halo: Places around a tile that are worked out with it and thrown away; times `scale` a whole number.
        scale: Output places a side for each place of `x`.
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
