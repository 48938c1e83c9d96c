"""Convert importance maps to block QP offsets, and offsets to x265 regions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from vcm.errors import ArgumentError
from vcm.validation import check_whole, is_number, is_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Map = npt.NDArray[np.int64]

BLOCKS = (16, 32, 64)
"""Block sizes in pixels for which x265 supports a QP."""
MAX_QP = 51
MAX_REGIONS = 20_000
"""Maximum number of rectangles with equal offsets; libavfilter's time is quadratic in it."""
_FLOOR = 2.0**-16
"""Smallest importance of a block, relative to the mean."""


def check_block(block: int) -> None:
    """Raise ArgumentError unless `block` is one of `BLOCKS`."""
    if not is_whole(block) or block not in BLOCKS:
        raise ArgumentError("block", expected="one of " + ", ".join(map(str, BLOCKS)), got=block)


class Region(NamedTuple):
    """A rectangle with one QP offset, in blocks or pixels."""

    top: int
    left: int
    rows: int
    columns: int
    offset: int

    def scaled(self, block: int) -> Region:
        """Convert the rectangle from blocks to pixels."""
        return Region(
            self.top * block, self.left * block, self.rows * block, self.columns * block, self.offset
        )


def qp_offsets(importance: Tensor, *, block: int = 32, alpha: float = 2.0, clip: int = 9) -> Tensor:
    """Convert per-pixel importance to per-block QP offsets, which lower the QP of important blocks.

    ```
    s = ½ (mean over the block) + ½ (mean of that over 3 × 3 blocks)
    ΔQP = round(clip(−α · (log2 s − mean log2 s)))
    ```

    The defaults were chosen on the validation set of the photo corpus with `benchmarks/importance.py`.

    Args:
        importance: Nonnegative map (H, W), such as `vcm.tasks.Task.importance` returns.
        block: Block size in pixels: 16, 32 or 64.
        alpha: QP steps per doubling of importance, at least 0; 6 QP steps double the quantization step.
        clip: Largest absolute offset, in [0, 51].

    Returns:
        Offsets (rows, columns), int64, in [−clip, clip]; zeros if all pixels have importance 0.

    Raises:
        ArgumentError: If an argument is out of range.
    """
    import torch
    import torch.nn.functional as F

    check_block(block)
    check_whole("clip", clip, 0, MAX_QP)
    if not is_number(alpha) or not 0 <= alpha < math.inf:
        raise ArgumentError("alpha", expected="a finite number of at least 0", got=alpha)
    if not isinstance(importance, torch.Tensor) or importance.ndim != 2 or 0 in importance.shape:
        came = tuple(importance.shape) if isinstance(importance, torch.Tensor) else type(importance).__name__
        raise ArgumentError("importance", expected="a tensor (H, W)", got=came)
    if not (importance.isfinite().all() and (importance >= 0).all()):
        raise ArgumentError("importance", expected="finite and nonnegative", got=importance.min().item())
    means = F.avg_pool2d(
        importance[None, None].double(), block, ceil_mode=True, count_include_pad=False
    )  # partial blocks at the right and bottom edges are averaged over their own pixels
    s = (means + F.avg_pool2d(means, 3, stride=1, padding=1, count_include_pad=False))[0, 0] / 2
    if s.max() <= 0:
        return torch.zeros(s.shape, dtype=torch.int64)
    octaves = s.clamp_min(_FLOOR * s.mean()).log2()
    return (-alpha * (octaves - octaves.mean())).clamp(-clip, clip).round().to(torch.int64).cpu()


def checked_offsets(offsets: Any, height: int, width: int, block: int) -> Map:  # noqa: ANN401  array or tensor
    """Validate a map of QP offsets and return it as int64 (rows, columns).

    Args:
        offsets: Integers in [−51, 51].
        height: Image height in pixels.
        width: Image width in pixels.
        block: Block size in pixels.

    Raises:
        ArgumentError: If the block size, or the map's size, type or a value is invalid.
    """
    import numpy as np

    check_block(block)
    try:
        values = np.asarray(offsets.detach().cpu() if hasattr(offsets, "cpu") else offsets)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged, sparse, or of a dtype unknown to NumPy
        raise ArgumentError(
            "offsets",
            expected="an array or tensor of integers",
            got=type(offsets).__name__,
            remedy=f"{error}.",
        ) from error
    expected = (-(-height // block), -(-width // block))
    if values.shape != expected:
        raise ArgumentError(
            "offsets",
            expected=f"(rows, columns) {expected}, one per {block}x{block} block of {height}x{width}",
            got=values.shape,
        )
    if not np.issubdtype(values.dtype, np.integer):
        raise ArgumentError("offsets", expected="integers", got=str(values.dtype), remedy="Round the values.")
    low, high = int(values.min()), int(values.max())
    if low < -MAX_QP or high > MAX_QP:
        raise ArgumentError(
            "offsets", expected=f"in [{-MAX_QP}, {MAX_QP}]", got=low if low < -MAX_QP else high
        )
    return values.astype(np.int64)


def regions(offsets: Map) -> list[Region]:
    """Merge blocks of equal offset into rectangles: runs along rows, then equal runs in consecutive rows.

    Blocks with offset 0 are omitted.
    """
    done: list[Region] = []
    open_: dict[tuple[int, int, int], Region] = {}
    for top, row in enumerate(offsets.tolist()):
        runs: dict[tuple[int, int, int], Region] = {}
        left = 0
        while left < len(row):
            right = left + 1
            while right < len(row) and row[right] == row[left]:
                right += 1
            if row[left]:
                key = (left, right - left, row[left])
                above = open_.pop(key, None)
                runs[key] = (
                    Region(top, left, 1, right - left, row[left])
                    if above is None
                    else above._replace(rows=above.rows + 1)
                )
            left = right
        done += open_.values()
        open_ = runs
    return [*done, *open_.values()]
