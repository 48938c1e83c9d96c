"""Argument checks shared by modules."""

from __future__ import annotations

import math

from vcm.errors import ArgumentError
from vcm.types import is_number


def check_between(argument: str, value: float, low: float, high: float) -> float:
    """Return `value` if it is a number from `low` to `high`.

    Raises:
        ArgumentError: If it is not.
    """
    if not is_number(value) or not low <= value <= high or math.isinf(value):
        raise ArgumentError(argument, expected=f"a number from {low} to {high}", got=value)
    return float(value)
