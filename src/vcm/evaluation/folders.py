"""Safe access to the files of a run folder."""

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
    """Return the resolved path of a file in a folder; the file need not exist.

    Args:
        folder: The folder; may be a link.
        name: Path of the file relative to the folder.

    Raises:
        OSError: If the path leaves the folder (absolute path, "..", or link), or the name is invalid.
    """
    root = os.path.realpath(folder)
    try:
        path = os.path.realpath(os.path.join(root, name))  # noqa: PTH118  NUL in a name is handled below
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(name)) from error
    if path != root and not path.startswith(root.rstrip(os.sep) + os.sep):
        raise OSError(
            errno.EPERM, f"it leads outside of {folder}; remove the link or correct the path", str(name)
        )
    return Path(path)


def make_folder(root: Path, name: str) -> Path:
    """Create a folder below `root` if it does not exist, and return its path.

    Raises:
        OSError: If the path leaves `root` or the folder cannot be created.
    """
    path = path_inside(root, name)
    path.mkdir(parents=True, exist_ok=True)
    return path


def read_json_inside(folder: Path, name: str) -> Any:  # noqa: ANN401  any JSON value
    """Read a JSON file of a folder.

    Raises:
        OSError: If the path leaves the folder or the file cannot be read.
        ValueError: If it is not JSON.
    """
    return read_json(path_inside(folder, name))


def check_own(path: Path) -> None:
    """Raise OSError if `path` is a link, FIFO, device or folder; a missing file is accepted."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "not a regular file"
        raise OSError(errno.ELOOP, f"it is {kind}; remove it", str(path))


@contextmanager
def appending(path: Path) -> Iterator[BinaryIO]:
    """Open a file for appending, creating it if it does not exist. Links are not followed.

    Raises:
        OSError: If the path is not a regular file, or it cannot be opened.
    """
    check_own(path)
    # O_NOFOLLOW and O_NONBLOCK guard against a link or FIFO created since the check.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o666), "ab") as file:
        yield file
