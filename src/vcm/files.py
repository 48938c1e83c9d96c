"""Safe file access: read only regular files of bounded size, and replace files atomically.

This module does not import torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import socket
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

MAX_TEXT_BYTES = 256 << 20
"""Largest configuration or record file that is read: 256 MiB."""
MAX_IMAGE_BYTES = 1 << 30
"""Largest image file or bitstream that is read: 1 GiB."""
MAX_WEIGHTS_BYTES = 8 << 30
"""Largest weights file that is read: 8 GiB."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
)
MAX_NAME = 120
"""Longest name of a file or folder, in characters; file systems take 255 bytes."""


def open_regular(path: str | Path, *, limit: int) -> BinaryIO:
    """Open a regular file of bounded size for reading.

    Args:
        path: The file; a link to a regular file is followed.
        limit: Largest size in bytes.

    Raises:
        OSError: If the file is missing, unreadable, larger than `limit` or not a regular file (a FIFO,
            device, socket or folder). `strerror` gives the reason.
    """
    try:
        # With O_NONBLOCK, opening a FIFO without a writer does not block.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            kind = next((word for test, word in _KINDS if test(status.st_mode)), "something else")
            raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))
        if status.st_size > limit:
            raise OSError(
                errno.EFBIG, f"it has {status.st_size:,} bytes, more than the limit of {limit:,}", str(path)
            )
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | Path, *, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        OSError: If `open_regular` fails, or the file grows while it is read.
    """
    with open_regular(path, limit=limit) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)
    if len(data) > size:
        raise OSError(errno.EFBIG, "it grew while it was read", str(path))
    return data


def read_text(path: str | Path, *, limit: int = MAX_TEXT_BYTES, encoding: str = "utf-8") -> str:
    """Read a regular text file of at most `limit` bytes.

    Raises:
        OSError: If `read_bytes` fails.
        UnicodeDecodeError: If the file is not valid text in this encoding.
    """
    return read_bytes(path, limit=limit).decode(encoding)


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file atomically: it appears under its name only if the block ends without an exception.

    The bytes go to a new file with an unpredictable name in the same folder and with default permissions,
    which is then renamed. A link at `path` is replaced, never followed; after a kill or an error, `path` is
    unchanged.

    Args:
        path: The file; its folder must exist.

    Raises:
        OSError: If the folder is not writable, or the disk is full.
    """
    partial = temporary_path(path)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically; see `replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file atomically, with backslash escapes for invalid characters; see `replacing`."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


_PARTIAL = re.compile(r"\.vcm-([0-9a-f]{4})([0-9a-f]{6})[0-9a-f]{6}\.partial")
"""Temporary files: their machine, process and a random number."""


def temporary_path(path: str | Path) -> Path:
    """Return a hidden, unpredictable name in the folder of `path`, for writers that open files themselves."""
    return Path(path).with_name(f".vcm-{_machine()}{os.getpid():06x}{secrets.token_hex(3)}.partial")


def remove_partial_files(folder: Path, *, owned: bool) -> None:
    """Remove the temporary files of writers that were killed.

    Args:
        folder: Folder of the files.
        owned: Whether nobody else writes to the folder: all temporary files in it and below it are removed.
            Otherwise only those directly in it whose process ran on this machine and has ended.
    """
    for path in folder.rglob("*.partial") if owned else folder.glob("*.partial"):
        name = _PARTIAL.fullmatch(path.name)
        if name and (owned or (name[1] == _machine() and not _is_alive(int(name[2], 16)))):
            path.unlink(missing_ok=True)


def _machine() -> str:
    """Return four hexadecimal digits that tell this machine from most others."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def find_files(folder: Path, suffixes: Collection[str], problems: list[str] | None = None) -> list[Path]:
    """Find all regular, non-hidden files below a folder with one of the suffixes, sorted by path.

    Links to files are followed, links to folders are not.

    Args:
        folder: Folder to search recursively.
        suffixes: Lower-case suffixes with their dots.
        problems: Gets a message for each unreadable file or folder, which is skipped.
    """
    problems = [] if problems is None else problems

    def skip(error: OSError) -> None:
        problems.append(f"{_shortened(error.filename)}: skipped: {error.strerror}")

    found = []
    for parent, folders, names in os.walk(folder, onerror=skip):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if path.suffix.lower() in suffixes and not name.startswith("."):
                try:
                    if path.is_file():
                        found.append(path)
                except OSError as error:  # a path that is too long for the system
                    skip(error)
    return sorted(found)


def _shortened(path: object) -> str:
    text = printable(path)
    return text if len(text) <= 200 else f"…{text[-199:]}"


def printable(text: object, *, keep: str = "") -> str:
    """Escape control characters and lone surrogates, which terminals interpret and UTF-8 cannot encode.

    Args:
        text: Any object; its `str` is used.
        keep: Control characters to keep, such as line breaks.
    """
    escaped = str(text).encode(errors="backslashreplace").decode()
    return "".join(
        character if character.isprintable() or character in keep else ascii(character)[1:-1]
        for character in escaped
    )


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        OSError: If it is not a regular file of at most 8 GiB.
    """
    with open_regular(path, limit=MAX_WEIGHTS_BYTES) as file:
        return stream_sha256(file)


def stream_sha256(file: BinaryIO) -> str:
    """Return the SHA-256 of the rest of an open file in hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def read_json(path: str | Path, *, limit: int = MAX_TEXT_BYTES) -> Any:  # noqa: ANN401  any JSON value
    """Read a JSON file.

    Args:
        path: A regular UTF-8 file, or a link to one.
        limit: Largest size in bytes.

    Raises:
        OSError: If the file is missing, unreadable, too large or not a regular file.
        ValueError: If it is not JSON, or nested too deeply.
    """
    return parse_json(read_text(path, limit=limit))


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401  any JSON value
    """Parse JSON text.

    Raises:
        ValueError: If it is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def file_name(text: str) -> str:
    """`text` as one file's name: no slashes, and not too long; different texts get different names."""
    name = re.sub(r"[^A-Za-z0-9._,=+-]+", "_", text)
    if name == text and 0 < len(name) <= MAX_NAME:
        return name
    return f"{name[:MAX_NAME]}-{hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()[:8]}"
