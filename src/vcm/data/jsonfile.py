"""Read untrusted JSON files. Does not import torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vcm.files import MAX_TEXT_BYTES, read_text


def read_json(path: str | Path, *, limit: int = MAX_TEXT_BYTES) -> Any:  # noqa: ANN401  any JSON value
    """Read a JSON file.

    Args:
        path: A regular UTF-8 file, or a link to one.
        limit: Maximum size in bytes.

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
