"""Block QP offsets from importance, and as x265 regions."""

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
"""Sides in pixels of the blocks that x265 takes a QP for."""
MAX_QP = 51
MAX_REGIONS = 20_000
"""Most rectangles of equal offsets: libavfilter's time rises with their square."""
_FLOOR = 2.0**-16
"""Smallest importance of a block, as a share of the mean."""


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
        """The same rectangle in pixels, for blocks of this side."""
        return Region(
            self.top * block, self.left * block, self.rows * block, self.columns * block, self.offset
        )


def qp_offsets(importance: Tensor, *, block: int = 32, alpha: float = 2.0, clip: int = 9) -> Tensor:
    """Turn importance of pixels into QP offsets of blocks: lower QPs where more depends on the pixels.

    ```
    s = ½ (mean over the block) + ½ (mean of that over 3 × 3 blocks)
    ΔQP = round(clip(−α · (log2 s − mean log2 s)))
    ```

    The defaults were chosen on the photo corpus' validation part: `benchmarks/importance.py`.

    Args:
        importance: (H, W), not negative, as `vcm.tasks.Task.importance` returns it.
        block: Side of a block in pixels: 16, 32 or 64.
        alpha: QP steps for each doubling of importance, from 0; 6 QP steps double the quantization step.
        clip: Largest absolute offset, from 0 to 51.

    Returns:
        (rows, columns) int64, from −clip to clip; zeros where all pixels are equally important.

    Raises:
        ArgumentError: If an argument is out of range.
    """
    import torch
    import torch.nn.functional as F

    check_block(block)
    check_whole("clip", clip, 0, MAX_QP)
    if not is_number(alpha) or not 0 <= alpha < math.inf:
        raise ArgumentError("alpha", expected="a finite number from 0", got=alpha)
    if not isinstance(importance, torch.Tensor) or importance.ndim != 2 or 0 in importance.shape:
        came = tuple(importance.shape) if isinstance(importance, torch.Tensor) else type(importance).__name__
        raise ArgumentError("importance", expected="a tensor (H, W)", got=came)
    if not (importance.isfinite().all() and (importance >= 0).all()):
        raise ArgumentError("importance", expected="finite and not negative", got=importance.min().item())
    means = F.avg_pool2d(
        importance[None, None].double(), block, ceil_mode=True, count_include_pad=False
    )  # parts of blocks at the right and bottom count by their own pixels
    s = (means + F.avg_pool2d(means, 3, stride=1, padding=1, count_include_pad=False))[0, 0] / 2
    if s.max() <= 0:
        return torch.zeros(s.shape, dtype=torch.int64)
    octaves = s.clamp_min(_FLOOR * s.mean()).log2()
    return (-alpha * (octaves - octaves.mean())).clamp(-clip, clip).round().to(torch.int64).cpu()


def checked_offsets(offsets: Any, height: int, width: int, block: int) -> Map:  # noqa: ANN401  array or tensor
    """Return a map of QP offsets as int64 (rows, columns).

    Args:
        offsets: Integers from −51 to 51.
        height: The image's height in pixels.
        width: Its width in pixels.
        block: Side of a block in pixels.

    Raises:
        ArgumentError: If the block size, the map's size, type or a value is out of range.
    """
    import numpy as np

    check_block(block)
    try:
        values = np.asarray(offsets.detach().cpu() if hasattr(offsets, "cpu") else offsets)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged, sparse, or of a type that NumPy lacks
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
            expected=f"(rows, columns) {expected}, one for each {block}x{block} block of {height}x{width}",
            got=values.shape,
        )
    if not np.issubdtype(values.dtype, np.integer):
        raise ArgumentError("offsets", expected="integers", got=str(values.dtype), remedy="Round them.")
    low, high = int(values.min()), int(values.max())
    if low < -MAX_QP or high > MAX_QP:
        raise ArgumentError(
            "offsets", expected=f"from {-MAX_QP} to {MAX_QP} QP steps", got=low if low < -MAX_QP else high
        )
    return values.astype(np.int64)


def regions(offsets: Map) -> list[Region]:
    """Merge equal blocks into rectangles: runs along rows, then equal runs of rows below each other.

    Blocks with offset 0 belong to none.
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
