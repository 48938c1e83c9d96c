"""Per-image records on disk."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from vcm.errors import EvaluationError
from vcm.evaluation.folders import appending, check_own
from vcm.files import file_name, open_regular, parse_json, printable, write_text
from vcm.types import ClassScores, Detections, Prediction, Settings
from vcm.validation import is_number, is_whole

FORMAT = 1
"""Format version; raise it when the meaning of a record changes, so that older records are not used."""
MAX_RECORDS_BYTES = 1 << 40
"""Largest record file that is read, line by line: 1 TiB."""
MAX_LINE_BYTES = 64 << 20
"""Longest line of a record file: 64 MiB."""
MAX_WHOLE = 1 << 53
"""Upper bound of sizes and counts, below which float64 represents integers exactly."""


@dataclass(frozen=True)
class Record:
    """Output of one system for one image.

    Attributes:
        image_id: Id of the image.
        height: Height of the original image in pixels.
        width: Width of the original image in pixels.
        num_bytes: Stream length in bytes; 0 for the original image itself.
        psnr: PSNR of the decoded image in dB; None if there is no image.
        ms_ssim: MS-SSIM of the decoded image; None if there is no image or it is too small.
        prediction: The task's prediction as plain lists.
        error: Error message; empty on success. With an error, all other values are empty.
    """

    image_id: str
    height: int = 0
    width: int = 0
    num_bytes: int = 0
    psnr: float | None = None
    ms_ssim: float | None = None
    prediction: dict[str, list[Any]] | None = None
    error: str = ""

    def check(self) -> None:
        """Validate the types and ranges of values read from a file.

        Raises:
            ValueError, TypeError: If a value is invalid.
        """
        sizes = (self.height, self.width, self.num_bytes)
        measured = [value for value in (self.psnr, self.ms_ssim) if value is not None]
        if not (
            isinstance(self.image_id, str)
            and isinstance(self.error, str)
            and all(is_whole(value) and 0 <= value < MAX_WHOLE for value in sizes)
            and all(is_number(value) and not math.isnan(value) for value in measured)
        ):
            raise ValueError("not a record")
        if self.prediction is not None:
            prediction_from_json(self.prediction)


def settings_key(settings: Settings) -> str:
    """Return a SHA-256 hash of the settings that records depend on."""
    return hashlib.sha256(canonical_json({"format": FORMAT, **settings}).encode()).hexdigest()


def canonical_json(value: object) -> str:
    """Serialize to JSON with sorted keys and no spaces; infinity becomes "inf", NaN becomes null."""
    return json.dumps(strict_numbers(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def strict_numbers(value: Any) -> Any:  # noqa: ANN401  any JSON value
    """Replace numbers that strict JSON cannot represent: infinity by "inf" or "-inf", NaN by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {key: strict_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict_numbers(item) for item in value]
    return value


class RecordFile:
    """Records of one operating point: a JSON line with the settings, then one JSON line per image.

    The file name contains a hash of the settings, so that records of different settings never mix. A line
    that a kill cut short is dropped when the file is opened again. If an image has several lines, the last
    one counts. Times are stored in a separate file, because they vary between runs.

    Attributes:
        records: Records by image id.
        changed: If this point has records with other settings only: the differences from the nearest of them,
            one per setting ("data.num_images changed (48 -> 24)").
    """

    def __init__(self, folder: Path, name: str, settings: Settings) -> None:
        """Open or create the file for `settings` in `folder`, and read its records.

        Raises:
            EvaluationError: If the folder is not writable.
        """
        key = settings_key(settings)
        self.stem = f"{file_name(name)}-{key[:16]}"
        self.path = folder / f"{self.stem}.jsonl"
        self.timings_path = folder / f"{self.stem}.timings.jsonl"
        self._header = canonical_json({"format": FORMAT, **settings})
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.changed = [] if self.path.exists() else _changed(folder, file_name(name), settings)
            self.records = self._load()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _load(self) -> dict[str, Record]:
        """Read the valid lines of an earlier run, and truncate the rest."""
        for path in (self.path, self.timings_path):
            check_own(path)
        records: dict[str, Record] = {}
        whole = size = 0
        if self.path.exists():
            with open_regular(self.path, limit=MAX_RECORDS_BYTES) as file:
                size = os.fstat(file.fileno()).st_size
                if file.readline(MAX_LINE_BYTES) == self._header.encode() + b"\n":
                    whole = file.tell()
                    for record, end in _read_records(file):
                        records[record.image_id], whole = record, end
        if whole == 0:
            write_text(self.path, self._header + "\n")
        elif whole < size:
            with appending(self.path) as file:
                file.truncate(whole)
        return records

    def append(self, records: Sequence[Record], timings: Iterable[dict[str, Any]]) -> None:
        """Append records in order and flush them to disk.

        Raises:
            EvaluationError: If the disk is full or the file is not writable; no partial record remains.
        """
        text = "".join(canonical_json(asdict(record)) + "\n" for record in records)
        size = None
        try:
            with appending(self.timings_path) as file:
                file.write("".join(canonical_json(timing) + "\n" for timing in timings).encode())
            with appending(self.path) as file:
                size = os.fstat(file.fileno()).st_size
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if size is not None:
                with appending(self.path) as file:
                    file.truncate(size)
            raise unwritable(self.path, error) from error
        self.records.update({record.image_id: record for record in records})

    def timings(self) -> list[dict[str, float]]:
        """Return the times in seconds of the present records, one entry per image that succeeded."""
        latest = self.timings_by_image()
        return [latest[image_id] for image_id in self.records if image_id in latest]

    def timings_by_image(self) -> dict[str, dict[str, float]]:
        """Return the times in seconds of every timed image, by image id."""
        latest: dict[str, dict[str, float]] = {}
        try:
            check_own(self.timings_path)
            with open_regular(self.timings_path, limit=MAX_RECORDS_BYTES) as file:
                while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
                    with suppress(ValueError, KeyError, TypeError, AttributeError):  # cut short by a kill
                        timing = parse_json(line)
                        image_id = timing.pop("image_id")
                        latest[image_id] = {name: float(seconds) for name, seconds in timing.items()}
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise unwritable(self.timings_path, error) from error
        return latest


def _changed(folder: Path, name: str, settings: Settings) -> list[str]:
    """Describe how `settings` differ from the nearest other records of a point; see `RecordFile.changed`."""
    now, nearest = _flat({"format": FORMAT, **settings}), None
    for path in sorted(folder.glob(f"{glob.escape(name)}-*.jsonl")):
        if not re.fullmatch(r"[0-9a-f]{16}\.jsonl", path.name.removeprefix(f"{name}-")) or path.is_symlink():
            continue
        try:
            with open_regular(path, limit=MAX_RECORDS_BYTES) as file:
                before = _flat(parse_json(file.readline(MAX_LINE_BYTES)))
        except (OSError, ValueError):
            continue
        keys = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
        if nearest is None or len(keys) < len(nearest):
            nearest = [f"{key} changed ({_told(before, key)} -> {_told(now, key)})" for key in keys]
    return nearest or []


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401  any JSON value
    """Flatten nested mappings to dotted keys."""
    if not isinstance(content, dict):
        return {prefix: strict_numbers(content)}
    return {
        key: value
        for name, item in content.items()
        for key, value in _flat(item, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def _told(settings: dict[str, Any], key: str) -> str:
    text = printable(settings[key]) if key in settings else "not set"
    return text if len(text) <= 40 else f"{text[:39]}…"


def _read_records(file: BinaryIO) -> Iterator[tuple[Record, int]]:
    """Yield valid records with the file position after each; stop at the first invalid line."""
    while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):  # the last line may be incomplete
        try:
            record = Record(**_with_infinities(parse_json(line)))
            record.check()
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError):  # not a record
            return
        yield record, file.tell()


def unwritable(path: Path, error: OSError) -> EvaluationError:
    """Return the error for a file that an evaluation cannot write."""
    return EvaluationError(
        f"{path} cannot be written: {error.strerror or error}. Free some space or use another run_dir. "
        "Existing records are kept; run the same command to resume."
    )


def _with_infinities(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: float(value) if name == "psnr" and value is not None else value
        for name, value in record.items()
    }


def prediction_to_json(prediction: Prediction) -> dict[str, list[Any]]:
    """Convert a prediction to plain lists, with the shortest decimals that restore its float32 values."""
    if isinstance(prediction, Detections):
        return {
            "boxes": [_shortest(box) for box in prediction.boxes],
            "labels": prediction.labels.tolist(),
            "scores": _shortest(prediction.scores),
        }
    return {"logits": _shortest(prediction.logits)}


def prediction_from_json(content: dict[str, list[Any]]) -> Prediction:
    """Invert `prediction_to_json` exactly.

    Raises:
        ValueError, TypeError, KeyError, OverflowError, RuntimeError: If the content is invalid.
    """
    if "logits" in content:
        logits = torch.tensor(content["logits"], dtype=torch.float32)
        if logits.ndim != 1:
            raise ValueError("its logits are not a list of numbers")
        return ClassScores(logits)
    found = Detections(
        boxes=torch.tensor(content["boxes"], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(content["scores"], dtype=torch.float32),
        labels=torch.tensor(content["labels"], dtype=torch.int64),
    )
    if not found.boxes.shape[:1] == found.scores.shape == found.labels.shape:
        raise ValueError("its boxes, scores and labels differ in number")
    return found


def _shortest(values: Tensor) -> list[float]:
    return [float(str(value)) for value in values.detach().cpu().numpy().astype(np.float32)]
