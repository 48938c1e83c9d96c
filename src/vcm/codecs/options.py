"""Validation of constructor arguments."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from vcm.errors import ArgumentError
from vcm.types import is_whole

T = TypeVar("T", str, bool)


def check_choice(argument: str, value: T, choices: Collection[T]) -> T:
    """Return `value` if it is one of `choices`.

    Raises:
        ArgumentError: If it is not, or has another type.
    """
    if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
        raise ArgumentError(argument, expected="one of " + ", ".join(map(repr, choices)), got=value)
    return value


def check_whole(argument: str, value: int, low: int, high: int) -> int:
    """Return `value` if it is an integer in [low, high].

    Raises:
        ArgumentError: If it is not.
    """
    if not is_whole(value) or not low <= value <= high:
        raise ArgumentError(argument, expected=f"a whole number from {low} to {high}", got=value)
    return int(value)
