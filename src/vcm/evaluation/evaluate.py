"""Evaluate pipelines on a dataset: records → points → results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from vcm.codecs import CodecPool
from vcm.data.datasets import ImageDataset
from vcm.errors import ArgumentError, EvaluationError
from vcm.evaluation.bootstrap import draw_images
from vcm.evaluation.examples import ORIGINALS, write_examples
from vcm.evaluation.folders import check_own, make_folder
from vcm.evaluation.labels import (
    LABEL_KINDS,
    LabelKind,
    LabelSet,
    check_label_kinds,
    pseudo_labels,
    true_labels,
)
from vcm.evaluation.pipelines import Pipeline
from vcm.evaluation.points import Point, accuracy_of, measure, of_all, point_name, shared_images
from vcm.evaluation.recording import Progress, Recorder, Share
from vcm.evaluation.records import RecordFile, prediction_from_json, unwritable
from vcm.evaluation.results import (
    PROVENANCE_JSON,
    RESULTS_JSON,
    TIMINGS_CSV,
    ImageFailure,
    Results,
    timing_row,
    write_csv,
    write_json,
)
from vcm.evaluation.sharing import Sharers
from vcm.files import remove_partial_files
from vcm.provenance import deciding_versions, now, provenance
from vcm.tasks import Task
from vcm.types import Settings
from vcm.validation import is_whole


class Evaluation:
    """Measure systems on a dataset, and keep records and results in a folder.

    Records made with the same settings are reused, so that an interrupted evaluation resumes where it
    stopped, and an evaluation with additional qualities computes only those. The settings are the ones that
    records depend on: the content of images and weights, and options; not paths, workers, label kinds or
    names.

    Attributes:
        sharers: Starts processes that share the work; None to use this process only. The results are the
            same.
        changed: After `run`, the settings that differ from earlier records in the folder, which were not
            used.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        dataset: ImageDataset,
        systems: Sequence[Pipeline],
        *,
        folder: str | Path,
        pool: CodecPool,
        labels: Sequence[LabelKind] | None = None,
        pseudo_score: float = 0.3,
        examples: int = 3,
        bootstrap: int = 200,
        config: object = None,
    ) -> None:
        """Validate the arguments.

        Args:
            name: Display name of the evaluation.
            task: Task network that reads the images.
            dataset: The images.
            systems: The operating points.
            folder: Folder for records and results.
            pool: Threads that do the work; their number does not affect the results.
            labels: Evaluation targets, "truth", "pseudo" or both; None for every kind the dataset provides.
            pseudo_score: Lowest score of a detection on the original that becomes a pseudo-label, in [0, 1].
            examples: Number of images whose decoded versions are kept for the report.
            bootstrap: Number of resamples for the confidence intervals; 0 for none.
            config: Configuration as plain JSON values, for the provenance.

        Raises:
            ArgumentError: If a number or a kind of labels is out of range.
            EvaluationError: If ground truth is requested and the dataset has no labels for this kind of task,
                or its categories and the task's have no name in common.
        """
        task.check()
        if examples < 0:
            raise ArgumentError("examples", expected="a whole number of at least 0", got=examples)
        if not is_whole(bootstrap) or bootstrap < 0:
            raise ArgumentError("bootstrap", expected="a whole number of at least 0", got=bootstrap)
        if not 0 <= pseudo_score <= 1:
            raise ArgumentError("pseudo_score", expected="a number in [0, 1]", got=pseudo_score)
        points = Counter(point_name(system.name, system.quality) for system in systems)
        if not points:
            raise ArgumentError("systems", expected="at least one operating point", got="none")
        if twice := [point for point, times in points.items() if times > 1]:
            raise ArgumentError("qualities", expected="unique within each system", got=", ".join(twice))
        self.name, self.task, self.dataset, self.systems = name, task, dataset, list(systems)
        self.folder, self.pool, self.bootstrap = Path(folder), pool, bootstrap
        self.pseudo_score, self.num_examples, self.config = pseudo_score, examples, config
        self.labels = self._label_kinds(labels)
        self.sharers: Callable[[Progress], Sharers] | None = None
        self.changed: list[str] = []

    def _label_kinds(self, labels: Sequence[LabelKind] | None) -> list[LabelKind]:
        has_truth = self.dataset.kind == self.task.kind
        if labels is None:
            labels = LABEL_KINDS if has_truth else ["pseudo"]
        check_label_kinds(labels)
        if "truth" in labels and not has_truth:
            raise EvaluationError(
                f"labels=truth needs a dataset with {self.task.kind} labels, and this one has "
                f"{self.dataset.kind} labels. Use labels=[pseudo], or another dataset or task."
            )
        if "truth" in labels:
            true_labels({}, self.dataset.categories, self.task.categories)  # fail now, not after the work
        return list(labels)

    def run(self, progress: Progress | None = None) -> Results:
        """Measure everything that is not recorded yet, write the results and return them.

        Raises:
            EvaluationError: If the folder is in use or not writable, or no image could be evaluated.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            check_own(self.folder / ".lock")  # FileLock truncates the file, so it must not be a link
            make_folder(self.folder, "records")
            with FileLock(self.folder / ".lock", timeout=0):
                remove_partial_files(self.folder, owned=True)
                return self._run(progress or (lambda *_: None))
        except Timeout as error:
            raise EvaluationError(
                f"Another evaluation is writing to {self.folder}. Wait for it to end, or use another run_dir."
            ) from error
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def record_share(
        self, share: Share, choose_examples: Callable[[], list[str]], progress: Progress
    ) -> None:
        """Record a share of the images in a worker process, without writing results.

        Args:
            share: The share of this process.
            choose_examples: Waits until all originals are recorded and returns the ids of the example images.
            progress: Progress callback.
        """
        recorder = self._recorder(progress, share)
        originals = recorder.record_originals()
        examples = choose_examples()
        for system in self.systems:
            recorder.record_system(system, originals, examples)

    def _recorder(self, progress: Progress, share: Share | None = None) -> Recorder:
        base: Settings = {
            "data": self.dataset.settings(),
            "task": self.task.settings(),
            "versions": deciding_versions(),
            "device": self.task.device.type,
        }
        folder, pool = self.folder, self.pool
        return Recorder(self.task, self.dataset, folder, base, pool=pool, progress=progress, share=share)

    def _run(self, progress: Progress) -> Results:
        started, data = now(), self.dataset.settings()
        recorder = self._recorder(progress)
        if self.sharers is not None and not recorder.is_complete(self.systems):
            recorder.progress = lambda *_: None  # the worker processes report theirs
            with self.sharers(progress) as sharers:
                sharers.wait_for_originals()
                originals = recorder.record_originals()
                sharers.record_systems(recorder.keep_originals(originals, self.num_examples))
        originals = recorder.record_originals()
        if all(record.error for record in originals.records.values()):
            first = next(iter(originals.records.values()))
            raise EvaluationError(
                f"none of the {len(self.dataset)} images could be read and passed to the task. "
                f"The first error: {first.error}"
                f"the first: {first.error}"
            )
        examples = recorder.keep_originals(originals, self.num_examples)
        files = [recorder.record_system(system, originals, examples) for system in self.systems]
        self.changed = list(dict.fromkeys(line for file in (originals, *files) for line in file.changed))
        between = recorder.record_between(self.systems, files, originals, examples)
        results = self._results(data, originals, files, examples)
        self._write(results, originals, files, between, started)
        recorder.remove_shares()
        return results

    def _write(
        self,
        results: Results,
        originals: RecordFile,
        files: Sequence[RecordFile],
        between: Mapping[str, Sequence[tuple[Pipeline, RecordFile]]],
        started: str,
    ) -> None:
        """Write all files except the records; results.json comes last, so that it implies the others."""
        (self.folder / RESULTS_JSON).unlink(missing_ok=True)
        named = {point_name(s.name, s.quality): file for s, file in zip(self.systems, files, strict=True)}
        write_examples(self.folder, results.examples, {ORIGINALS: originals, **named}, between)
        timed = [(s.name, s.quality, f.timings()) for s, f in zip(self.systems, files, strict=True)]
        write_csv(self.folder / TIMINGS_CSV, [timing_row(*row) for row in timed])
        settings = {
            "data": results.data,
            "task": results.task,
            "systems": [{"name": s.name, "quality": s.quality, **s.settings()} for s in self.systems],
        }
        machine = provenance(self.task.device, self.pool.workers)
        times = {"started": started, "finished": now()}
        write_json(self.folder / PROVENANCE_JSON, {**machine, **times, **settings, "config": self.config})
        results.write(self.folder)

    def _results(
        self, data: Settings, originals: RecordFile, files: Sequence[RecordFile], examples: Sequence[str]
    ) -> Results:
        every = [file.records for file in files]
        failures = [ImageFailure(r.image_id, "", r.error) for r in originals.records.values() if r.error]
        for system, records in zip(self.systems, every, strict=True):
            point = point_name(system.name, system.quality)
            failures += [ImageFailure(r.image_id, point, r.error) for r in records.values() if r.error]
        shared = shared_images(self.dataset.image_ids, [originals.records, *every])
        points: list[Point] = []
        accuracy: dict[str, dict[str, float | None]] = {}
        notes: list[str] = []
        for kind in self.labels:
            labels = self._label_set(kind, originals)
            image_ids = [image_id for image_id in shared if image_id in labels.targets]
            if not image_ids:
                notes.append(f"no image with {kind} labels succeeded at every operating point")
                continue
            notes += [labels.note] if labels.note else []
            draws = draw_images(image_ids, self.bootstrap)
            once = draw_images(image_ids, 0)
            accuracy[kind] = of_all(accuracy_of(originals.records, image_ids, labels, self.task, once))
            for system, records in zip(self.systems, every, strict=True):
                if all(image_id in records and not records[image_id].error for image_id in image_ids):
                    points.append(measure(system, records, image_ids, labels, self.task, draws=draws))
        if not points:
            first = failures[0].error if failures else notes[0]
            raise EvaluationError(f"No image succeeded at every operating point. The first failure: {first}")
        return Results(
            name=self.name,
            kind=self.task.kind,
            task=self.task.settings(),
            data=data,
            points=points,
            originals=accuracy,
            failures=failures,
            problems=list(self.dataset.problems),
            notes=notes,
            examples=list(examples),
            categories=list(self.task.categories),
            pseudo_score=self.pseudo_score,
        )

    def _label_set(self, kind: LabelKind, originals: RecordFile) -> LabelSet:
        if kind == "truth":
            targets = {
                image_id: target
                for index, image_id in enumerate(self.dataset.image_ids)
                if (target := self.dataset.target(index)) is not None
            }
            return true_labels(targets, self.dataset.categories, self.task.categories)
        predictions = {
            record.image_id: prediction_from_json(record.prediction)
            for record in originals.records.values()
            if record.prediction is not None
        }
        return pseudo_labels(predictions, self.pseudo_score)
