"""Results of an evaluation on disk: results.json, results.csv, bootstrap.json, timings.csv."""

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
"""Main accuracies, by their name in `Point.accuracy`."""


@dataclass(frozen=True)
class ImageFailure:
    """Failure of an image at one operating point; `point` is empty if the original could not be processed."""

    image_id: str
    point: str
    error: str


@dataclass(frozen=True)
class Results:
    """Results of an evaluation. Equal settings give equal results, however often the run was interrupted.

    Attributes:
        name: Name of the evaluation.
        kind: Kind of task: "detection" or "classification".
        task: Settings of the task.
        data: Settings of the dataset.
        points: One point per system, quality and kind of labels.
        originals: The task's accuracy on the uncompressed images, by kind of labels.
        failures: Images that failed at an operating point.
        problems: Labels that were corrected or skipped.
        notes: Further notes for readers of the results.
        examples: Ids of the images whose decoded versions were stored for the report.
        categories: Category names of the task.
        pseudo_score: Lowest score of a detection on the original that became a pseudo-label.
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
        """Whether no image failed and no label was corrected or skipped."""
        return not self.failures and not self.problems

    def curve(
        self, system: str, accuracy: str | None = None, labels: str | None = None
    ) -> list[tuple[float, float]]:
        """Return the (rate, accuracy) pairs of a curve, in the form that `vcm.metrics.bd_rate` takes.

        Args:
            system: Name of the curve.
            accuracy: A name in `Point.accuracy`, "psnr" or "ms_ssim"; None for the task's main accuracy.
            labels: "truth" or "pseudo"; None for ground truth if evaluated, else pseudo-labels.

        Returns:
            (bpp, value) pairs of the operating points with a value, by ascending rate.

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
        """Read the results from a run folder; without bootstrap.json, the points have no resamples.

        Args:
            folder: Folder of the run.

        Raises:
            EvaluationError: If there are no results, or they are damaged.
        """
        folder = Path(folder)
        path = folder / RESULTS_JSON
        try:
            results = _results_from_json(read_json_inside(folder, RESULTS_JSON))
        except FileNotFoundError as error:
            raise EvaluationError(
                f"{folder} contains no results. Complete `vcm evaluate` with run_dir={folder} first."
            ) from error
        except DAMAGE as error:
            raise damaged(path, error) from error
        return replace(results, points=_with_resamples(results.points, folder))


DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError)
"""Errors that reading a damaged file can raise."""


def damaged(path: Path, error: Exception) -> EvaluationError:
    """Return the error for a results file that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else printable(error)
    return EvaluationError(f"{path} is damaged ({reason}). Run `vcm evaluate` again.")


def _results_from_json(content: Any) -> Results:  # noqa: ANN401  any JSON value
    """Build results from the content of results.json.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, OverflowError: If the content is invalid.
    """
    expect(isinstance(content, dict), "it is not an object")
    expect(all(isinstance(content[key], list) for key in ("points", "failures")), "its points are not a list")
    failures = [ImageFailure(**failure) for failure in content["failures"]]
    results = Results(
        **{**content, "points": [Point.from_json(p) for p in content["points"]], "failures": failures}
    )
    expect(bool(results.points), "it contains no points")
    expect(isinstance(results.name, str), "its name is not a string")
    expect(results.kind in ("detection", "classification"), "its kind is unknown")
    expect(isinstance(results.task, dict) and isinstance(results.task["name"], str), "its task has no name")
    expect(isinstance(results.data, dict), "its data is not an object")
    expect(is_whole(results.data.get("num_images", 0)), "its number of images is not a whole number")
    originals = {kind: numbers_by_name(results.originals[kind]) for kind in results.originals}
    expect(bool(originals) and all(originals.values()), "it contains no accuracy of the originals")
    kinds = {point.labels for point in results.points} | set(originals)
    expect(kinds <= set(LABEL_KINDS), "it contains unknown labels")
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
            f"{name} is not a list of strings",
        )
    for failure in failures:
        expect(all(isinstance(value, str) for value in asdict(failure).values()), "a failure is not a string")
    return replace(results, originals=originals, pseudo_score=finite(results.pseudo_score))


def _expect_accuracies(where: str, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Raise ValueError with the first name that is in only one of the two mappings."""
    for names, other, problem in ((expected, found, "is missing"), (found, expected, "is unexpected")):
        if odd := [name for name in names if name not in other]:
            raise ValueError(f"{where}: the accuracy {odd[0][:80]!r} {problem}")


def _with_resamples(points: Sequence[Point], folder: Path) -> list[Point]:
    """Add the resamples of bootstrap.json to the points."""
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
    """Restore infinities, which strict JSON stores as strings."""
    expect("bpp" in figures, "it contains no rates")
    expect(len({len(values) for values in figures.values()}) == 1, "its values differ in number")
    return {
        name: [None if value is None else float(value) for value in values]
        for name, values in figures.items()
    }


def _key(point: Point) -> str:
    """Return the key of a point in bootstrap.json."""
    return f"{point_name(point.system, point.quality)} {point.labels}"


def point_row(point: Point) -> dict[str, Any]:
    """Return a point as a CSV row: counts, rates, accuracies and interval ends."""
    content = point.to_json()
    row = {key: content[key] for key in content if key not in ("accuracy", "title", "intervals")}
    ends = {
        f"{name}_{end}": value
        for name, interval in point.intervals.items()
        for end, value in zip(("low", "high"), interval, strict=True)
    }
    return {**row, **point.accuracy, **ends}


def timing_row(name: str, quality: float, timings: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the mean times per image of one operating point."""
    means = {key: fmean(timing[key] for timing in timings) for key in (timings[0] if timings else ())}
    return {"system": name, "quality": quality, "num_images": len(timings), **means}


def write_json(path: Path, content: object) -> None:
    """Write strict JSON atomically; infinity becomes "inf", NaN becomes null."""
    text = json.dumps(strict_numbers(content), indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows with the union of their columns, atomically; None becomes an empty cell."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically; characters that UTF-8 cannot encode become backslash escapes.

    Raises:
        EvaluationError: If the file cannot be written; an existing file of that name is then unchanged.
    """
    try:
        files.write_text(path, text)
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written: {error.strerror or error}.") from error
