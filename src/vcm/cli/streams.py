"""Standard output and error that may be closed or full."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class OutputClosedError(Exception):
    """Standard output takes no more: the disk behind it is full, say."""


class SafeOutput(io.TextIOWrapper):
    """A text stream that is silent once its reader has gone: what a command does goes on without it.

    Args:
        descriptor: Of the stream, which stays open.
        strict: Whether any other error is raised, as `OutputClosedError`; else it counts as a reader gone.
    """

    def __init__(self, descriptor: int, *, strict: bool) -> None:
        raw = io.FileIO(descriptor, "w", closefd=False)
        lines = os.isatty(descriptor)
        super().__init__(io.BufferedWriter(raw), encoding="utf-8", line_buffering=lines)
        self._descriptor, self._strict = descriptor, strict

    def write(self, text: str, /) -> int:
        """Write text; without a reader, nothing."""
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Hand on what is buffered; without a reader, nothing."""
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Let what is buffered and what comes later go nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._descriptor)
        os.close(nowhere)
        with suppress(OSError):
            super().flush()
        if self._strict and not isinstance(error, BrokenPipeError):
            raise OutputClosedError(error.strerror) from error


@contextmanager
def safe_streams() -> Iterator[None]:
    """Use `SafeOutput` for standard output and error, where these are the process's own."""
    # A closed descriptor would be given to the next file that is opened, which output would then go into.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
    before = sys.stdout, sys.stderr
    if sys.stdout is None or sys.stdout is sys.__stdout__:
        if sys.stdout is not None:
            with suppress(OSError):
                sys.stdout.flush()
        sys.stdout = SafeOutput(1, strict=True)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = SafeOutput(2, strict=False)
        sys.stderr.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OutputClosedError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before
