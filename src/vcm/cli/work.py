"""Work items of bulk processing. Does not import torch."""

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
    """One validated file to process. Picklable.

    Attributes:
        source: Input file.
        target: Output file.
        options: Further settings of the work.
        is_shared: Whether the target is written at the end, from the outcomes of all files.
    """

    source: Path
    target: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    is_shared: bool = False


@dataclass(frozen=True)
class Outcome:
    """Result of processing one file.

    Attributes:
        item: The work item.
        num_bytes: Size of the stream in bytes.
        num_pixels: Number of pixels of the image.
        seconds: Processing time.
        error: Error message; empty on success.
        content: Result that the command collects over all files, as plain JSON values.
    """

    item: Item
    num_bytes: int = 0
    num_pixels: int = 0
    seconds: float = 0.0
    error: str = ""
    content: Any = None


class Work(Protocol):
    """Callable that processes one file. It must be picklable before its first call."""

    def __call__(self, item: Item, on_step: Callable[[int, int], None] | None = None) -> Outcome:
        """Process one file; `on_step` receives the steps done and the total."""


def tried(work: Work, item: Item, on_step: Callable[[int, int], None] | None = None) -> Outcome:
    """Process one file and time it. An exception becomes an outcome with an error message."""
    start = time.perf_counter()
    try:
        outcome = work(item, on_step)
    except Exception as error:
        return Outcome(item, seconds=time.perf_counter() - start, error=message_of(error, item.source))
    return Outcome(
        item, outcome.num_bytes, outcome.num_pixels, time.perf_counter() - start, content=outcome.content
    )


def message_of(error: Exception, path: Path) -> str:
    """Return an error's message without the leading file name."""
    if isinstance(error, VCMError):
        return str(error).removeprefix(f"{path}: ").removeprefix(f"{printable(path)}: ")
    return f"{type(error).__name__}: {error}"
