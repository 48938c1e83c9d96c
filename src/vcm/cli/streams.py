"""Standard output and error streams that survive a closed pipe."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class OutputClosedError(Exception):
    """Raised if standard output cannot be written, for example because the disk is full."""


class SafeOutput(io.TextIOWrapper):
    """Text stream that discards its output once the reader has closed the pipe; the command continues.

    Args:
        descriptor: File descriptor of the stream, which is not closed.
        strict: Whether other errors are raised as `OutputClosedError`; if False, output is discarded as well.
    """

    def __init__(self, descriptor: int, *, strict: bool) -> None:
        raw = io.FileIO(descriptor, "w", closefd=False)
        lines = os.isatty(descriptor)
        super().__init__(io.BufferedWriter(raw), encoding="utf-8", line_buffering=lines)
        self._descriptor, self._strict = descriptor, strict

    def write(self, text: str, /) -> int:
        """Write text, or discard it if the pipe is closed."""
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush the buffer, or discard it if the pipe is closed."""
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Redirect buffered and future output to the null device."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._descriptor)
        os.close(nowhere)
        with suppress(OSError):
            super().flush()
        if self._strict and not isinstance(error, BrokenPipeError):
            raise OutputClosedError(error.strerror) from error


@contextmanager
def safe_streams() -> Iterator[None]:
    """Use `SafeOutput` for standard output and error, unless they have been replaced."""
    # Otherwise the next opened file would get a closed descriptor 0, 1 or 2, and output would go into that
    # file.
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
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
