"""Running a transform over a large picture tile by tile, so that memory does not grow with the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor


def in_tiles(
    transform: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, halo: int, scale: float
) -> Tensor:
    """What `transform(x)` gives, with at most (tile + 2·halo)² places of `x` in work at a time.

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
    for top, bottom in _spans(height, tile):
        for left, right in _spans(width, tile):
            above, before = max(top - halo, 0), max(left - halo, 0)
            piece = transform(x[..., above : min(bottom + halo, height), before : min(right + halo, width)])
            if out is None:
                out = piece.new_empty(1, piece.shape[1], round(height * scale), round(width * scale))
            rows, columns = _scaled(top, bottom, scale), _scaled(left, right, scale)
            inner_rows = _scaled(top - above, bottom - above, scale)
            inner_columns = _scaled(left - before, right - before, scale)
            out[..., rows, columns] = piece[..., inner_rows, inner_columns]
    assert out is not None
    return out


def _spans(length: int, tile: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, tile):
        yield start, min(start + tile, length)


def _scaled(start: int, stop: int, scale: float) -> slice:
    return slice(round(start * scale), round(stop * scale))
