"""An evaluation's results on disk: results.json, results.csv, bootstrap.json, timings.csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from vcm.errors import EvaluationError
from vcm.evaluation.bootstrap import Resamples
from vcm.evaluation.names import point_name
from vcm.evaluation.points import Point
from vcm.evaluation.records import canonical_json, strict_numbers
from vcm.types import Settings

RESULTS_JSON = "results.json"
RESULTS_CSV = "results.csv"
BOOTSTRAP_JSON = "bootstrap.json"
TIMINGS_CSV = "timings.csv"
PROVENANCE_JSON = "provenance.json"


@dataclass(frozen=True)
class ImageFailure:
    """A picture that could not be evaluated at one operating point; the point is empty where it could not be
    read at all.
    """

    image_id: str
    point: str
    error: str


@dataclass(frozen=True)
class Results:
    """What an evaluation found out; equal for equal settings, however often it was interrupted.

    Attributes:
        name: The evaluation's name.
        kind: What the task predicts: "detection" or "classification".
        task: The task's settings.
        data: The data set's settings.
        points: One for each system, quality and kind of labels.
        originals: The task's accuracy on the uncompressed pictures, by kind of labels.
        failures: Pictures left out at some point.
        problems: What was mended or left out in the labels.
        notes: What else a reader of the results should know.
        examples: Image ids whose decoded pictures were kept, for the report.
        categories: The task's class names.
        pseudo_score: Boxes on the originals at or above this score were pseudo-labels.
    """

    name: str
    kind: str
    task: Settings
    data: Settings
    points: list[Point]
    originals: dict[str, dict[str, float | None]]
    failures: list[ImageFailure] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    pseudo_score: float = 0.3

    @property
    def complete(self) -> bool:
        """Whether no picture was left out and no label mended."""
        return not self.failures and not self.problems

    def write(self, folder: Path) -> None:
        """Write bootstrap.json, results.csv, then results.json, into `folder`."""
        resamples = {_key(point): asdict(point.resamples) for point in self.points if point.resamples}
        if resamples:
            write_text(folder / BOOTSTRAP_JSON, canonical_json(resamples) + "\n")
        else:
            (folder / BOOTSTRAP_JSON).unlink(missing_ok=True)
        write_csv(folder / RESULTS_CSV, [_row(point) for point in self.points])
        write_json(folder / RESULTS_JSON, {**asdict(self), "points": [p.to_json() for p in self.points]})

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Read back what `write` wrote; without bootstrap.json, its points have no resamples.

        Raises:
            EvaluationError: If there are no results, or they are damaged.
        """
        path = folder / RESULTS_JSON
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            content["points"] = [Point.from_json(point) for point in content["points"]]
            content["failures"] = [ImageFailure(**failure) for failure in content["failures"]]
            results = cls(**content)
        except FileNotFoundError as error:
            raise EvaluationError(
                f"{folder} holds no results; run `vcm evaluate` to its end first, with run_dir={folder}."
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(path, error) from error
        return replace(results, points=_with_resamples(results.points, folder / BOOTSTRAP_JSON))


def _damaged(path: Path, error: Exception) -> EvaluationError:
    return EvaluationError(f"{path} is damaged ({error}); run `vcm evaluate` again to write it anew.")


def _with_resamples(points: Sequence[Point], path: Path) -> list[Point]:
    """The points with what bootstrap.json holds of them."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = {
            key: Resamples(of_point["draws"], _numbers(of_point["figures"]))
            for key, of_point in content.items()
        }
    except FileNotFoundError:
        return list(points)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    return [replace(point, resamples=found.get(_key(point))) for point in points]


def _numbers(figures: dict[str, list[Any]]) -> dict[str, list[float | None]]:
    """Figures as they were before strict JSON, which has no infinity."""
    if len({len(values) for values in figures.values()}) > 1:
        raise ValueError("its figures are not of one length")
    return {
        name: [None if value is None else float(value) for value in values]
        for name, values in figures.items()
    }


def _key(point: Point) -> str:
    """What bootstrap.json calls a point."""
    return f"{point_name(point.system, point.quality)} {point.labels}"


def _row(point: Point) -> dict[str, Any]:
    """A point's line in results.csv; the ends of its intervals at the end."""
    content = point.to_json()
    row = {key: content[key] for key in content if key not in ("accuracy", "title", "intervals")}
    ends = {
        f"{name}_{end}": value
        for name, interval in point.intervals.items()
        for end, value in zip(("low", "high"), interval, strict=True)
    }
    return {**row, **point.accuracy, **ends}


def timing_row(name: str, quality: float, timings: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean seconds a picture at one operating point."""
    means = {key: fmean(timing[key] for timing in timings) for key in (timings[0] if timings else ())}
    return {"system": name, "quality": quality, "num_images": len(timings), **means}


def write_json(path: Path, content: object) -> None:
    """Write strict JSON in one move; infinity becomes "inf", NaN null."""
    text = json.dumps(strict_numbers(content), indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows with all the columns that any of them has, in one move; None becomes an empty cell."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a text file in one move; what UTF-8 cannot hold becomes a backslash escape.

    Raises:
        EvaluationError: If it cannot be written; an older file of that name is then still whole.
    """
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise EvaluationError(f"{path} cannot be written: {error.strerror or error}.") from error
