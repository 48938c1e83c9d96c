"""An evaluation's results on disk: results.json, results.csv, bootstrap.json, timings.csv."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from vcm import files
from vcm.errors import ArgumentError, EvaluationError
from vcm.evaluation.bootstrap import Resamples
from vcm.evaluation.folders import read_json_inside
from vcm.evaluation.labels import LABEL_KINDS
from vcm.evaluation.points import Point, expect, finite, numbers_by_name, point_name
from vcm.evaluation.records import canonical_json, strict_numbers
from vcm.files import printable
from vcm.types import Settings
from vcm.validation import is_whole

RESULTS_JSON = "results.json"
RESULTS_CSV = "results.csv"
BOOTSTRAP_JSON = "bootstrap.json"
TIMINGS_CSV = "timings.csv"
PROVENANCE_JSON = "provenance.json"
PREFERRED_ACCURACY = ("map", "top_1")
"""Main accuracy of a task, by its name in `Point.accuracy`."""


@dataclass(frozen=True)
class ImageFailure:
    """An image that could not be evaluated at one operating point; the point is empty where it could not be
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
        originals: The task's accuracy on the uncompressed images, by kind of labels.
        failures: Images left out at some point.
        problems: What was mended or left out in the labels.
        notes: What else a reader of the results should know.
        examples: Image ids whose decoded images were kept, for the report.
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
        """Whether no image was left out and no label mended."""
        return not self.failures and not self.problems

    def curve(
        self, system: str, accuracy: str | None = None, labels: str | None = None
    ) -> list[tuple[float, float]]:
        """Return the (rate, accuracy) pairs of a curve, as `vcm.metrics.bd_rate` takes them.

        Args:
            system: The curve's name.
            accuracy: A name in `Point.accuracy`, or "psnr" or "ms_ssim"; None takes the task's main one.
            labels: "truth" or "pseudo"; None takes the first kind that there is.

        Returns:
            (bpp, value) of each operating point that has one, by ascending rate.

        Raises:
            ArgumentError: If there is no such curve, accuracy or kind of labels.
        """
        kinds = [kind for kind in LABEL_KINDS if any(point.labels == kind for point in self.points)]
        points = [point for point in self.points if point.system == system]
        figures: dict[str, list[float | None]] = {
            "psnr": [point.psnr for point in points],
            "ms_ssim": [point.ms_ssim for point in points],
        }
        for name in dict.fromkeys(name for point in points for name in point.accuracy):
            figures[name] = [point.accuracy.get(name) for point in points]
        main = next((name for name in PREFERRED_ACCURACY if name in figures), "psnr")
        chosen, kind = accuracy or main, labels or next(iter(kinds), "")
        for argument, known, got in (
            ("system", list(dict.fromkeys(point.system for point in self.points)), system),
            ("labels", kinds, kind),
            ("accuracy", list(figures), chosen),
        ):
            if got not in known:
                raise ArgumentError(argument, expected=f"one of {', '.join(known)}", got=got)
        pairs = [
            (point.bpp, value)
            for point, value in zip(points, figures[chosen], strict=True)
            if point.labels == kind and value is not None
        ]
        return sorted(pairs)

    def write(self, folder: Path) -> None:
        """Write bootstrap.json, results.csv, then results.json, into `folder`."""
        resamples = {_key(point): asdict(point.resamples) for point in self.points if point.resamples}
        if resamples:
            write_text(folder / BOOTSTRAP_JSON, canonical_json(resamples) + "\n")
        else:
            (folder / BOOTSTRAP_JSON).unlink(missing_ok=True)
        write_csv(folder / RESULTS_CSV, [point_row(point) for point in self.points])
        write_json(folder / RESULTS_JSON, {**asdict(self), "points": [p.to_json() for p in self.points]})

    @classmethod
    def read(cls, folder: str | Path) -> Results:
        """Read back what `write` wrote; without bootstrap.json, its points have no resamples.

        Args:
            folder: Of the run.

        Raises:
            EvaluationError: If there are no results, or they are damaged.
        """
        folder = Path(folder)
        path = folder / RESULTS_JSON
        try:
            results = _results_from_json(read_json_inside(folder, RESULTS_JSON))
        except FileNotFoundError as error:
            raise EvaluationError(
                f"{folder} holds no results; run `vcm evaluate` to its end first, with run_dir={folder}."
            ) from error
        except DAMAGE as error:
            raise damaged(path, error) from error
        return replace(results, points=_with_resamples(results.points, folder))


DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError)
"""What reading a damaged file may raise."""


def damaged(path: Path, error: Exception) -> EvaluationError:
    """What to tell of a file of results that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)
    return EvaluationError(f"{path} is damaged ({reason}); run `vcm evaluate` again.")


def _results_from_json(content: Any) -> Results:  # noqa: ANN401  any JSON value
    """Results from what `Results.write` wrote.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, OverflowError: If the content is not of that form.
    """
    expect(isinstance(content, dict), "it is no object")
    expect(all(isinstance(content[key], list) for key in ("points", "failures")), "its points are no list")
    failures = [ImageFailure(**failure) for failure in content["failures"]]
    results = Results(
        **{**content, "points": [Point.from_json(p) for p in content["points"]], "failures": failures}
    )
    expect(bool(results.points), "it holds no points")
    expect(isinstance(results.name, str), "its name is no text")
    expect(results.kind in ("detection", "classification"), "its kind is unknown")
    expect(isinstance(results.task, dict) and isinstance(results.task["name"], str), "its task has no name")
    expect(isinstance(results.data, dict), "its data is no object")
    expect(is_whole(results.data.get("num_images", 0)), "its number of images is no whole number")
    originals = {kind: numbers_by_name(results.originals[kind]) for kind in results.originals}
    expect(bool(originals) and all(originals.values()), "it holds no accuracy of the originals")
    kinds = {point.labels for point in results.points} | set(originals)
    expect(kinds <= set(LABEL_KINDS), "it holds unknown labels")
    expect({point.labels for point in results.points} <= set(originals), "it lacks accuracy of the originals")
    accuracies = next(iter(originals.values()))
    for kind, found in originals.items():
        _expect_accuracies(f"the originals against {kind}", found, accuracies)
    for point in results.points:
        named = f"{point.system} at quality {point.quality:g} against {point.labels}"
        _expect_accuracies(named, point.accuracy, accuracies)
    for name in ("problems", "notes", "examples", "categories"):
        listed = getattr(results, name)
        expect(
            isinstance(listed, list) and all(isinstance(i, str) for i in listed),
            f"{name} is no list of texts",
        )
    for failure in failures:
        expect(all(isinstance(value, str) for value in asdict(failure).values()), "a failure is no text")
    return replace(results, originals=originals, pseudo_score=finite(results.pseudo_score))


def _expect_accuracies(where: str, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Raise ValueError with the first name that only one of two mappings has."""
    for names, other, problem in ((expected, found, "is missing"), (found, expected, "is one too many")):
        if odd := [name for name in names if name not in other]:
            raise ValueError(f"{where}: the accuracy {odd[0][:80]!r} {problem}")


def _with_resamples(points: Sequence[Point], folder: Path) -> list[Point]:
    """The points with what bootstrap.json holds of them."""
    try:
        content = read_json_inside(folder, BOOTSTRAP_JSON)
        found = {
            key: Resamples(str(of_point["draws"]), _figures(of_point["figures"]))
            for key, of_point in content.items()
        }
    except FileNotFoundError:
        return list(points)
    except DAMAGE as error:
        raise damaged(folder / BOOTSTRAP_JSON, error) from error
    return [replace(point, resamples=found.get(_key(point))) for point in points]


def _figures(figures: dict[str, list[Any]]) -> dict[str, list[float | None]]:
    """Figures as they were before strict JSON, which has no infinity."""
    expect("bpp" in figures, "it lacks the rates")
    expect(len({len(values) for values in figures.values()}) == 1, "its figures are not of one length")
    return {
        name: [None if value is None else float(value) for value in values]
        for name, values in figures.items()
    }


def _key(point: Point) -> str:
    """What bootstrap.json calls a point."""
    return f"{point_name(point.system, point.quality)} {point.labels}"


def point_row(point: Point) -> dict[str, Any]:
    """A point as a row of a CSV file: figures, accuracies, and the ends of intervals."""
    content = point.to_json()
    row = {key: content[key] for key in content if key not in ("accuracy", "title", "intervals")}
    ends = {
        f"{name}_{end}": value
        for name, interval in point.intervals.items()
        for end, value in zip(("low", "high"), interval, strict=True)
    }
    return {**row, **point.accuracy, **ends}


def timing_row(name: str, quality: float, timings: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean seconds an image at one operating point."""
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
    try:
        files.write_text(path, text)
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written: {error.strerror or error}.") from error
