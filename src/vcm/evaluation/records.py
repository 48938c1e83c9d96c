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
"""Raised when the meaning of a record changes; older records are then not used."""
MAX_RECORDS_BYTES = 1 << 40
"""Largest file of records that is read, line by line: 1 TiB."""
MAX_LINE_BYTES = 64 << 20
"""Longest line of it: 64 MiB."""
MAX_WHOLE = 1 << 53
"""Bound of sizes and counts, below which a float64 holds them exactly."""


@dataclass(frozen=True)
class Record:
    """What one system made of one image.

    Attributes:
        image_id: The image's.
        height: Of the original image, in pixels.
        width: Likewise.
        num_bytes: Length of its stream; 0 where there is none (the original image itself).
        psnr: Of the decoded image in dB; None where there is no image.
        ms_ssim: Likewise; None also where the image is too small for it.
        prediction: The task's, as plain lists.
        error: What went wrong; empty where nothing did. All else is then empty as well.
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
        """Check the types and ranges of values that came from a file.

        Raises:
            ValueError: If one is not what a record holds.
            TypeError: Likewise.
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
    """SHA-256 over settings: equal only where everything that decides the records is equal."""
    return hashlib.sha256(canonical_json({"format": FORMAT, **settings}).encode()).hexdigest()


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces; an infinite number is written as the text "inf", NaN as null."""
    return json.dumps(strict_numbers(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def strict_numbers(value: Any) -> Any:  # noqa: ANN401  any JSON value
    """Replace what strict JSON has no number for: infinity by "inf" or "-inf", NaN by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {key: strict_numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict_numbers(item) for item in value]
    return value


class RecordFile:
    """One operating point's records, a JSON line each behind a line with the settings they were made with.

    The file's name holds a hash of the settings, so other settings never meet these records. A line cut
    short by a kill is dropped when the file is opened again, and of two lines about one image the later
    counts. Times go to a file beside it, since they differ from run to run.

    Attributes:
        records: By image id.
        changed: Where this point has records under other settings only: what differs from the nearest of
            them, one line a setting ("data.num_images changed (48 -> 24)").
    """

    def __init__(self, folder: Path, name: str, settings: Settings) -> None:
        """Open or create the file for `settings` below `folder`, and read what is there.

        Raises:
            EvaluationError: If the folder cannot be written.
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
        """Keep the whole, valid lines of an earlier run, and cut off the rest."""
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
        """Add records in order and have them on disk before returning.

        Raises:
            EvaluationError: If the disk is full or the file cannot be written; no record is left
                half-written.
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
        """Seconds of the records at hand, one entry an image that did not fail."""
        latest = self.timings_by_image()
        return [latest[image_id] for image_id in self.records if image_id in latest]

    def timings_by_image(self) -> dict[str, dict[str, float]]:
        """Seconds by image id, of every image that was timed."""
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
    """How `settings` differ from those of the nearest other records of the point called `name`."""
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
    """Values by dotted key."""
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
    """The valid records from here on, each with the position behind its line; until the first that is not."""
    while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):  # the last may have been cut short
        try:
            record = Record(**_with_infinities(parse_json(line)))
            record.check()
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError):  # not a record
            return
        yield record, file.tell()


def unwritable(path: Path, error: OSError) -> EvaluationError:
    """What to tell where an evaluation cannot write: why, and what to do."""
    return EvaluationError(
        f"{path} cannot be written: {error.strerror or error}. Free some space or choose another run_dir; "
        "what is recorded so far is kept, and the same command goes on from there."
    )


def _with_infinities(record: dict[str, Any]) -> dict[str, Any]:
    return {
        name: float(value) if name == "psnr" and value is not None else value
        for name, value in record.items()
    }


def prediction_to_json(prediction: Prediction) -> dict[str, list[Any]]:
    """Plain lists, keys sorted as on disk, in the shortest decimals that give the same float32 back."""
    if isinstance(prediction, Detections):
        return {
            "boxes": [_shortest(box) for box in prediction.boxes],
            "labels": prediction.labels.tolist(),
            "scores": _shortest(prediction.scores),
        }
    return {"logits": _shortest(prediction.logits)}


def prediction_from_json(content: dict[str, list[Any]]) -> Prediction:
    """The inverse of `prediction_to_json`, exactly.

    Raises:
        ValueError, TypeError, KeyError, OverflowError, RuntimeError: If it is no such content.
    """
    if "logits" in content:
        logits = torch.tensor(content["logits"], dtype=torch.float32)
        if logits.ndim != 1:
            raise ValueError("its logits are no list of numbers")
        return ClassScores(logits)
    found = Detections(
        boxes=torch.tensor(content["boxes"], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(content["scores"], dtype=torch.float32),
        labels=torch.tensor(content["labels"], dtype=torch.int64),
    )
    if not found.boxes.shape[:1] == found.scores.shape == found.labels.shape:
        raise ValueError("its boxes, scores and labels are not as many")
    return found


def _shortest(values: Tensor) -> list[float]:
    return [float(str(value)) for value in values.detach().cpu().numpy().astype(np.float32)]
