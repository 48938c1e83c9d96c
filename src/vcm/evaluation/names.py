"""Names of operating points and of their files."""

from __future__ import annotations

import hashlib
import re

MAX_NAME = 120
"""Longest name of a file or folder, in characters; file systems take 255 bytes."""


def point_name(system: str, quality: float) -> str:
    """Name of an operating point, such as "bpg-37"; different qualities get different names."""
    return f"{system}-{quality:.15g}"


def file_name(text: str) -> str:
    """`text` as one file's name: no slashes, and not too long; different texts get different names."""
    name = re.sub(r"[^A-Za-z0-9._,=+-]+", "_", text)
    if name == text and 0 < len(name) <= MAX_NAME:
        return name
    return f"{name[:MAX_NAME]}-{hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()[:8]}"
