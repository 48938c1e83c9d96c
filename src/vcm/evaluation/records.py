"""Per-picture records on disk: appended as the evaluation goes, read back when it is picked up again."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vcm.errors import EvaluationError
from vcm.evaluation.names import file_name
from vcm.types import ClassScores, Detections, Prediction, Settings

FORMAT = 1
"""Raised when the meaning of a record changes; older records are then not used."""


@dataclass(frozen=True)
class Record:
    """What one system made of one picture.

    Attributes:
        image_id: The picture's.
        height: Of the original picture, in pixels.
        width: Likewise.
        num_bytes: Length of its stream; 0 where there is none (the original picture itself).
        psnr: Of the decoded picture in dB; None where there is no picture.
        ms_ssim: Likewise; None also where the picture is too small for it.
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
    short by a kill is dropped when the file is opened again, and of two lines about one picture the later
    counts. Times go to a file beside it, since they differ from run to run.
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
            self.records = self._load()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _load(self) -> dict[str, Record]:
        """Keep the whole, valid lines of an earlier run, and cut off the rest."""
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        records: dict[str, Record] = {}
        whole = 0
        if len(lines) > 1 and lines[0].decode(errors="replace") == self._header:
            whole = len(lines[0]) + 1
            for line in lines[1:-1]:  # what follows the last line feed was cut short
                try:
                    record = Record(**_with_infinities(json.loads(line)))
                except (ValueError, TypeError, AttributeError):  # not a record
                    break
                records[record.image_id] = record
                whole += len(line) + 1
        if whole == 0:
            self.path.write_text(self._header + "\n")
        elif whole < self.path.stat().st_size:
            os.truncate(self.path, whole)
        return records

    def append(self, records: Sequence[Record], timings: Iterable[dict[str, Any]]) -> None:
        """Add records in order and have them on disk before returning.

        Raises:
            EvaluationError: If the disk is full or the file cannot be written; no record is left
                half-written.
        """
        size = self.path.stat().st_size
        text = "".join(canonical_json(asdict(record)) + "\n" for record in records)
        try:
            with self.timings_path.open("a") as file:
                file.write("".join(canonical_json(timing) + "\n" for timing in timings))
            with self.path.open("a") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            os.truncate(self.path, size)
            raise unwritable(self.path, error) from error
        self.records.update({record.image_id: record for record in records})

    def timings(self) -> list[dict[str, float]]:
        """Seconds of the records at hand, one entry a picture that did not fail."""
        if not self.timings_path.exists():
            return []
        latest: dict[str, dict[str, float]] = {}
        for line in self.timings_path.read_text().split("\n")[:-1]:
            try:
                timing = json.loads(line)
                latest[timing.pop("image_id")] = timing
            except (ValueError, KeyError):  # cut short by a kill
                continue
        return [latest[image_id] for image_id in self.records if image_id in latest]


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
    """The inverse of `prediction_to_json`, exactly."""
    if "logits" in content:
        return ClassScores(torch.tensor(content["logits"], dtype=torch.float32))
    return Detections(
        boxes=torch.tensor(content["boxes"], dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(content["scores"], dtype=torch.float32),
        labels=torch.tensor(content["labels"], dtype=torch.int64),
    )


def _shortest(values: Tensor) -> list[float]:
    return [float(str(value)) for value in values.detach().cpu().numpy().astype(np.float32)]
