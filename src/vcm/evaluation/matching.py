"""Match streams of one image by rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from vcm.types import QUALITY_STEPS, QualityScale

MAX_RATIO = 1.15
"""Maximum ratio of two stream lengths that count as about equal."""


def is_near(num_bytes: int, target: int) -> bool:
    """Return whether a stream's length is within 15 % of a target length."""
    return max(num_bytes / target, target / num_bytes) <= MAX_RATIO


def matched_bytes(streams: Mapping[str, Sequence[int]], *, between: bool = False) -> int:
    """Return the stream length that the most systems reach within 15 %; the shortest if there are several.

    Args:
        streams: Stream lengths in bytes by system, all positive; the result is 1 if there are no streams.
        between: Whether a system with both shorter and longer streams also counts as reaching a length.
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
    """Interpolate the quality that should give a stream of `target` bytes, linearly in the log rate.

    Args:
        known: Stream lengths in bytes by quality.
        target: Target length in bytes.
        scale: The codec's quality scale. Fractional qualities are rounded to multiples of 1/16.

    Returns:
        The quality; None if the target is not between two known lengths, or there is no quality in between.
    """
    step = 1 if scale.integer else 1 / QUALITY_STEPS
    for (low, first), (high, last) in pairwise(sorted(known.items())):
        if (first - target) * (last - target) < 0 and high - low > step:
            share = math.log(target / first) / math.log(last / first)
            quality = round((low + share * (high - low)) / step) * step
            quality = min(max(quality, low + step), high - step)
            return int(quality) if scale.integer else quality
    return None
