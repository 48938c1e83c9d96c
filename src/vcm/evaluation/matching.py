"""Match streams of one image by rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from vcm.types import QUALITY_STEPS, QualityScale

MAX_RATIO = 1.15
"""Farthest that a stream's length may be from the common one to count as about the same."""


def is_near(num_bytes: int, target: int) -> bool:
    """Whether a stream's length is within 15 % of the common one."""
    return max(num_bytes / target, target / num_bytes) <= MAX_RATIO


def matched_bytes(streams: Mapping[str, Sequence[int]], *, between: bool = False) -> int:
    """Length of the stream that most systems come within 15 % of; of several such, of the shortest.

    Args:
        streams: Lengths in bytes, all positive, by system; no system gives 1.
        between: Whether a system also counts where it has both shorter and longer streams.
    """
    lengths = np.array(sorted({length for of_system in streams.values() for length in of_system}))
    if len(lengths) == 0:
        return 1
    reached = np.zeros(len(lengths), dtype=np.int64)
    for own in (np.sort(np.log(of_system)) for of_system in streams.values() if of_system):
        at = np.searchsorted(own, np.log(lengths))
        below, above = own[np.maximum(at - 1, 0)], own[np.minimum(at, len(own) - 1)]
        nearest = np.minimum(np.abs(below - np.log(lengths)), np.abs(above - np.log(lengths)))
        is_reached = nearest <= math.log(MAX_RATIO)
        reached += is_reached | (between & (at > 0) & (at < len(own)))
    return int(lengths[reached.argmax()])


def quality_between(known: Mapping[float, int], target: int, scale: QualityScale) -> float | None:
    """A quality that should give a stream of `target` bytes, by log rate between two known ones.

    None where no two lie on either side of it, or there is no other quality between them.

    Args:
        known: Lengths of streams in bytes by quality.
        target: The length that is wanted.
        scale: The codec's scale. Qualities that need not be whole are multiples of a sixteenth.
    """
    step = 1 if scale.integer else 1 / QUALITY_STEPS
    for (low, first), (high, last) in pairwise(sorted(known.items())):
        if (first - target) * (last - target) < 0 and high - low > step:
            share = math.log(target / first) / math.log(last / first)
            quality = round((low + share * (high - low)) / step) * step
            quality = min(max(quality, low + step), high - step)
            return int(quality) if scale.integer else quality
    return None
