"""Work items of bulk processing. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vcm.errors import VCMError
from vcm.files import printable


@dataclass(frozen=True)
class Item:
    """One file to work on, checked and ready; goes to other processes.

    Attributes:
        source: The file.
        target: What is made of it.
        options: What else the work needs to know.
        is_shared: Whether the target is written at the end, from what all files gave.
    """

    source: Path
    target: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    is_shared: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        item: The file.
        num_bytes: Of its stream.
        num_pixels: Of its image.
        seconds: That the work took.
        error: What went wrong; empty for nothing.
        content: What the command collects over all files, as plain JSON values.
    """

    item: Item
    num_bytes: int = 0
    num_pixels: int = 0
    seconds: float = 0.0
    error: str = ""
    content: Any = None


class Work(Protocol):
    """What a command does with one file. An instance is pickled before it is first called."""

    def __call__(self, item: Item, on_step: Callable[[int, int], None] | None = None) -> Outcome:
        """Work on one file; `on_step` is called with the steps done and all of them."""


def tried(work: Work, item: Item, on_step: Callable[[int, int], None] | None = None) -> Outcome:
    """Work on one file; an error becomes its outcome, for one bad file must not lose the others."""
    start = time.perf_counter()
    try:
        outcome = work(item, on_step)
    except Exception as error:
        return Outcome(item, seconds=time.perf_counter() - start, error=told(error, item.source))
    return Outcome(
        item, outcome.num_bytes, outcome.num_pixels, time.perf_counter() - start, content=outcome.content
    )


def told(error: Exception, path: Path) -> str:
    """An error's message without the file's own name before it."""
    if isinstance(error, VCMError):
        return str(error).removeprefix(f"{path}: ").removeprefix(f"{printable(path)}: ")
    return f"{type(error).__name__}: {error}"
