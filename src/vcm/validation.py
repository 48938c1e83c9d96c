"""Checks of arguments. Importing this does not import torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import TypeVar

from vcm.errors import ArgumentError

T = TypeVar("T", str, bool)


def is_number(value: object) -> bool:
    """Whether `value` is a real number of Python or NumPy, and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether `value` is an integer of Python or NumPy, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_between(argument: str, value: float, low: float, high: float) -> float:
    """Return `value` if it is a finite number from `low` to `high`.

    Raises:
        ArgumentError: If it is not.
    """
    if not is_number(value) or not low <= value <= high or math.isinf(value):
        raise ArgumentError(argument, expected=f"a number {_range(low, high)}", got=value)
    return float(value)


def check_positive(argument: str, value: float) -> float:
    """Return `value` if it is a finite number above 0.

    Raises:
        ArgumentError: If it is not.
    """
    if not is_number(value) or not 0 < value < math.inf:
        raise ArgumentError(argument, expected="a number above 0", got=value)
    return float(value)


def check_whole(argument: str, value: int, low: int, high: float = math.inf) -> int:
    """Return `value` if it is an integer from `low` to `high`.

    Raises:
        ArgumentError: If it is not.
    """
    if not is_whole(value) or not low <= value <= high:
        raise ArgumentError(argument, expected=f"a whole number {_range(low, high)}", got=value)
    return int(value)


def check_choice(argument: str, value: T, choices: Collection[T]) -> T:
    """Return `value` if it is one of `choices`, and of the same type.

    Raises:
        ArgumentError: If it is not.
    """
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        raise ArgumentError(argument, expected="one of " + ", ".join(map(repr, choices)), got=value)
    return value


def _range(low: float, high: float) -> str:
    return f"from {low}" if high == math.inf else f"from {low} to {high}"
