"""Names of operating points and their files."""

from __future__ import annotations

import hashlib
import re

MAX_NAME = 120
"""Maximum length of a file or folder name, in characters; file systems allow 255 bytes."""


def point_name(system: str, quality: float) -> str:
    """Return the name of an operating point, such as "bpg-37". Different qualities give different names."""
    return f"{system}-{quality:.15g}"


def file_name(text: str) -> str:
    """Convert text to a valid file name of limited length. Different texts give different names."""
    name = re.sub(r"[^A-Za-z0-9._,=+-]+", "_", text)
    if name == text and 0 < len(name) <= MAX_NAME:
        return name
    return f"{name[:MAX_NAME]}-{hashlib.sha256(text.encode(errors='backslashreplace')).hexdigest()[:8]}"
