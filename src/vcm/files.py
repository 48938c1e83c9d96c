"""Safe file access: regular files only on the way in, a new file and a rename on the way out.

Importing this does not import torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
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
"""Largest file of weights that is read: 8 GiB."""

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
        OSError: If the file is missing, unreadable, larger than `limit` or no regular file (a FIFO, device,
            socket or folder). `strerror` says which.
    """
    try:
        # O_NONBLOCK: opening a FIFO without a writer would wait for one.
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
        OSError: As `open_regular`; also if the file grows while it is read.
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
        OSError: As `read_bytes`.
        UnicodeDecodeError: If the file is not text of this encoding.
    """
    return read_bytes(path, limit=limit).decode(encoding)


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Write a file that takes its name only when the block ends without an exception.

    The bytes go to a new file of an unpredictable name in the same folder, with the permissions that the
    umask gives, which is then renamed. A link at `path` is replaced, never followed; a kill or an error
    leaves what was at `path` before.

    Args:
        path: The file; its folder must exist.

    Raises:
        OSError: If the folder takes no files, or the disk is full.
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
    """Write a whole file; see `replacing`."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write a whole UTF-8 file, with escapes for what UTF-8 cannot hold; see `replacing`."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def temporary_path(path: str | Path) -> Path:
    """Return a hidden, unpredictable name in the folder of `path`, for a writer that opens files itself."""
    return Path(path).with_name(f".vcm-{secrets.token_hex(8)}.partial")


def find_files(folder: Path, suffixes: Collection[str], problems: list[str] | None = None) -> list[Path]:
    """Every regular file below `folder` with one of the suffixes, sorted by path; nothing that is hidden.

    Links to files are followed, links to folders are not.

    Args:
        folder: Where to look, at any depth.
        suffixes: In lower case, each with its dot.
        problems: Takes a line for each file or folder that cannot be looked at; such ones are skipped.
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
                except OSError as error:  # a path longer than the system takes
                    skip(error)
    return sorted(found)


def _shortened(path: object) -> str:
    text = printable(path)
    return text if len(text) <= 200 else f"…{text[-199:]}"


def printable(text: object, *, keep: str = "") -> str:
    """Escape what a terminal would act on or no file can hold: control characters and lone surrogates.

    Args:
        text: Anything; its `str` is taken.
        keep: Control characters that stay, such as the line breaks of a message.
    """
    escaped = str(text).encode(errors="backslashreplace").decode()
    return "".join(
        character if character.isprintable() or character in keep else ascii(character)[1:-1]
        for character in escaped
    )


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, as hexadecimal digits.

    Raises:
        OSError: If it is no regular file of at most 8 GiB.
    """
    with open_regular(path, limit=MAX_WEIGHTS_BYTES) as file:
        return stream_sha256(file)


def stream_sha256(file: BinaryIO) -> str:
    """SHA-256 of what is left to read in an open file, as hexadecimal digits."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def read_json(path: str | Path, *, limit: int = MAX_TEXT_BYTES) -> Any:  # noqa: ANN401  any JSON value
    """Read a JSON file.

    Args:
        path: A regular file of UTF-8 text, or a link to one.
        limit: Largest size in bytes.

    Raises:
        OSError: If the file is missing, unreadable, too large or no regular file.
        ValueError: If it is not JSON, or nested too deep to be read.
    """
    return parse_json(read_text(path, limit=limit))


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401  any JSON value
    """Parse JSON text.

    Raises:
        ValueError: If it is not JSON, or nested too deep to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def file_name(text: str) -> str:
    """`text` as one file's name: no slashes, and not too long; different texts get different names."""
    name = re.sub(r"[^A-Za-z0-9._,=+-]+", "_", text)
    if name == text and 0 < len(name) <= MAX_NAME:
        return name
    return f"{name[:MAX_NAME]}-{hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()[:8]}"
