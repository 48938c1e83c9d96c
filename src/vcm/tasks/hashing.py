"""SHA-256 of weights files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

from vcm.files import MAX_WEIGHTS_BYTES, open_regular


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
