"""Manifests: JSON-lines logs from which an interrupted run resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vcm.cli.work import Item, Outcome
from vcm.errors import OutputError


class Manifest:
    """JSON-lines log with one line per processed file, from which an interrupted run resumes.

    The first line holds the settings. Every other line holds `file`, `output`, `bytes`, `pixels`, `seconds`,
    `error`, and the size and modification time of the file. Incomplete lines are ignored.

    Attributes:
        goes_on: Whether an earlier run wrote the manifest.

    Args:
        path: The manifest.
        settings: Everything that the outputs depend on, as plain JSON values.

    Raises:
        OutputError: If the file is not a manifest, has other settings, or cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._rows: dict[str, dict[str, Any]] = {}
        self._ends_with_a_line = True
        header = json.loads(json.dumps({"settings": settings}, default=str))
        is_new = not path.exists() or (path.is_file() and path.stat().st_size == 0)
        self.goes_on = not is_new
        if not is_new:
            self._read(header)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {error.strerror}. Choose another --manifest."
            ) from error
        if is_new:
            self._write(header)
        elif not self._ends_with_a_line:
            self._file.write("\n")

    def _read(self, header: Mapping[str, Any]) -> None:
        remedy = "Choose another --manifest, or remove the file to start over."
        try:
            with self.path.open(encoding="utf-8", errors="surrogateescape") as file:
                try:
                    first = json.loads(file.readline())
                except ValueError:
                    first = None
                if not isinstance(first, dict) or "settings" not in first:
                    raise OutputError(f"{self.path} is not a vcm manifest. {remedy}")
                if first != header:
                    raise OutputError(f"{self.path} belongs to a run with other settings. {remedy}")
                place = file.tell()
                while line := file.readline():
                    self._ends_with_a_line = line.endswith("\n")
                    try:
                        row = json.loads(line)
                        kept = {key: row[key] for key in ("output", "state", "error")}
                        self._rows[row["file"]] = {**kept, "place": place}
                    except (ValueError, KeyError, TypeError):  # an incomplete line of an interrupted run
                        pass
                    place = file.tell()
        except OSError as error:
            raise OutputError(f"{self.path} cannot be read: {error.strerror}. {remedy}") from error

    def is_done(self, item: Item) -> bool:
        """Return whether an earlier run processed the unchanged file and its output still exists."""
        row = self._rows.get(str(item.source))
        return (
            row is not None
            and not row["error"]
            and row["output"] == str(item.target)
            and row["state"] == _state(item.source)
            and (item.is_shared or item.target.is_file())
        )

    def content(self, item: Item) -> Any:  # noqa: ANN401  a JSON value
        """Return what an earlier run collected from a file that is done."""
        with self.path.open(encoding="utf-8", errors="surrogateescape") as file:
            file.seek(self._rows[str(item.source)]["place"])
            return json.loads(file.readline()).get("content")

    def add(self, outcome: Outcome) -> None:
        """Append the line of one file and flush it."""
        row = {
            "file": str(outcome.item.source),
            "output": str(outcome.item.target),
            "bytes": outcome.num_bytes,
            "pixels": outcome.num_pixels,
            "seconds": round(outcome.seconds, 4),
            "error": outcome.error,
            "state": _state(outcome.item.source),
        }
        if outcome.content is not None:
            row["content"] = outcome.content
        self._write(row)

    def _write(self, row: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}.") from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _state(path: Path) -> list[int] | None:
    """Return the size and modification time of a file, to detect changes; None if it is unreadable."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
