"""Run external programs without a shell, with a timeout and a checked exit status."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from multiprocessing import parent_process
from typing import IO

from vcm.errors import CodecError

_MAX_MESSAGE = 2000
_MAX_OUTPUT = 1 << 14
_CHUNK = 1 << 16


class ProgramRunner:
    """Runs programs, each in a new session so that its children can be killed with it.

    Args:
        timeout_s: Time limit in seconds, after which a program is killed.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def run(
        self, command: Sequence[str], *, accept: Sequence[int] = (0,), failure: type[CodecError] = CodecError
    ) -> str:
        """Run a program and return its standard output, of which the last 16 kB are kept.

        Args:
            command: Path of the program, and its arguments.
            accept: Exit statuses that count as success.
            failure: Exception type for other exit statuses.

        Raises:
            CodecError: If the program cannot be started, exceeds the time limit, or (as `failure`) has
                another exit status; the message contains its standard error.
        """
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise CodecError(f"{command[0]} cannot be started: {error}") from error
        with self._lock:
            self._running.add(process)
        try:
            out, err = _collect(process, self.timeout_s)
        except subprocess.TimeoutExpired as error:
            _end(process)
            raise CodecError(
                f"{command[0]} ran longer than timeout_s={self.timeout_s:g} s and was killed. "
                "Increase timeout_s if the image is large."
            ) from error
        except BaseException:
            _end(process)
            raise
        finally:
            with self._lock:
                self._running.discard(process)
            _close_pipes(process)
        if process.returncode not in accept:
            message = err.decode(errors="replace")[-_MAX_MESSAGE:].strip() or "(nothing on standard error)"
            raise failure(f"{command[0]} failed with exit status {process.returncode}: {message}")
        return out.decode(errors="replace")

    def kill(self) -> None:
        """Kill every running program; the threads that wait for them get a CodecError."""
        with self._lock:
            running = list(self._running)
        for process in running:
            if process.returncode is None:
                _kill_session(process)

    def __reduce__(self) -> tuple[type[ProgramRunner], tuple[float]]:
        return ProgramRunner, (self.timeout_s,)


def _collect(process: subprocess.Popen[bytes], timeout_s: float) -> tuple[bytes, bytes]:
    """Wait for a program to end, and return the tails of its standard output and standard error.

    Raises:
        subprocess.TimeoutExpired: If the program, or a child that holds its pipes, exceeds the time limit.
    """
    deadline = time.monotonic() + timeout_s
    tails = (bytearray(), bytearray())
    with selectors.DefaultSelector() as selector:
        for pipe, tail in zip(_pipes(process), tails, strict=True):
            selector.register(pipe, selectors.EVENT_READ, tail)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(process.args, timeout_s)
            for key, _ in selector.select(left):
                if chunk := os.read(key.fd, _CHUNK):
                    key.data.extend(chunk)
                    del key.data[:-_MAX_OUTPUT]
                else:
                    selector.unregister(key.fileobj)
    process.wait(max(0.0, deadline - time.monotonic()))
    out, err = map(bytes, tails)
    return out, err


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdout, process.stderr


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in _pipes(process):
        pipe.close()


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that has not been waited for, with its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program with its children, and wait for it.

    Children in another session survive and may keep the pipes open, so the pipes are not read to their end.
    """
    _kill_session(process)
    process.wait()


def follow_parent() -> None:
    """Leave Ctrl-C to the parent process, and exit when the parent ends; for worker processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
