"""Access to the files of a run folder, without leaving it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from vcm.files import read_json


def path_inside(folder: Path, name: str | Path) -> Path:
    """Return the path of a file in a folder, links resolved; it need not exist.

    Args:
        folder: The folder; may be a link itself.
        name: The file's path below the folder.

    Raises:
        OSError: If the path leads out of the folder (absolute, by "..", by a link), or no file can have that
            name.
    """
    root = os.path.realpath(folder)
    try:
        path = os.path.realpath(os.path.join(root, name))  # noqa: PTH118  a name with NUL is met below
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(name)) from error
    if path != root and not path.startswith(root.rstrip(os.sep) + os.sep):
        raise OSError(
            errno.EPERM, f"it leads out of {folder}; remove the link or correct the path", str(name)
        )
    return Path(path)


def make_folder(root: Path, name: str) -> Path:
    """Make a folder below `root` where it is missing, and return its path.

    Raises:
        OSError: As `path_inside`, or if it cannot be made.
    """
    path = path_inside(root, name)
    path.mkdir(parents=True, exist_ok=True)
    return path


def read_json_inside(folder: Path, name: str) -> Any:  # noqa: ANN401  any JSON value
    """Read a JSON file of a folder.

    Raises:
        OSError: As `path_inside` and `read_json`.
        ValueError: If it is not JSON.
    """
    return read_json(path_inside(folder, name))


def check_own(path: Path) -> None:
    """Raise OSError if `path` is a link, FIFO, device or folder; it may be missing."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "not a regular file"
        raise OSError(errno.ELOOP, f"it is {kind}; remove it", str(path))


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """Open a file to append to, made where it is missing; never through a link.

    Raises:
        OSError: If there is something else than a regular file, or it cannot be opened.
    """
    check_own(path)
    # O_NOFOLLOW and O_NONBLOCK: a link or FIFO that took the file's place meanwhile.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "ab") as file:
        yield file
