"""The main path: systems × data set → records → points → results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
import torchvision
from filelock import FileLock, Timeout
from torch import Tensor

from vcm.codecs.pool import Failure
from vcm.data.datasets import PictureDataset
from vcm.errors import ArgumentError, EvaluationError, PictureError
from vcm.evaluation.examples import (
    ORIGINALS,
    choose_examples,
    example_path,
    keep_example,
    point_name,
    write_examples,
)
from vcm.evaluation.labels import (
    LABEL_KINDS,
    LabelKind,
    LabelSet,
    check_label_kinds,
    pseudo_labels,
    true_labels,
)
from vcm.evaluation.points import Point, accuracy_of, measure, shared_images
from vcm.evaluation.records import Record, RecordFile, prediction_from_json, prediction_to_json
from vcm.evaluation.results import TIMINGS_CSV, ImageFailure, Results, timing_row, write_csv
from vcm.evaluation.systems import Answer, System, predict
from vcm.metrics.distortion import ms_ssim, psnr
from vcm.tasks import Task
from vcm.types import Settings

Progress = Callable[[str, int, int], None]
"""Called with (operating point, pictures done, pictures in all)."""


class Evaluation:
    """Measures systems on a data set and leaves records and results in a folder.

    Work that the folder already holds records of, made with the same settings, is not done again; so an
    evaluation that was killed goes on where it stopped, and one with more qualities adds only those.
    """

    def __init__(
        self,
        name: str,
        task: Task,
        dataset: PictureDataset,
        systems: Sequence[System],
        *,
        folder: str | Path,
        labels: Sequence[LabelKind] | None = None,
        pseudo_score: float = 0.3,
        examples: int = 3,
        chunk: int = 8,
    ) -> None:
        """Take what is to be measured.

        Args:
            name: The evaluation's name, for people.
            task: Says what is seen in a picture.
            dataset: The pictures.
            systems: The operating points.
            folder: Where records and results go.
            labels: What predictions are held against; None for all that the data set allows.
            pseudo_score: Boxes on the original at or above this score are pseudo-labels, in [0, 1].
            examples: How many pictures' decoded versions are kept for the report.
            chunk: Pictures that go through a system's threads together; has no influence on the results.

        Raises:
            ArgumentError: If a number or a kind of labels is not what it may be.
            EvaluationError: If true labels are asked for and there are none that the task could be held
                against.
        """
        if examples < 0:
            raise ArgumentError("examples", expected="a whole number from 0", got=examples)
        if not 0 <= pseudo_score <= 1:
            raise ArgumentError("pseudo_score", expected="a number from 0 to 1", got=pseudo_score)
        points = [(system.name, system.quality) for system in systems]
        if not points:
            raise ArgumentError("systems", expected="at least one operating point", got="none")
        if len(set(points)) < len(points):
            raise ArgumentError("qualities", expected="each quality once a system", got=points)
        self.name, self.task, self.dataset, self.systems = name, task, dataset, list(systems)
        self.folder, self.pseudo_score, self.num_examples, self.chunk = (
            Path(folder),
            pseudo_score,
            examples,
            chunk,
        )
        self.labels = self._label_kinds(labels)

    def _label_kinds(self, labels: Sequence[LabelKind] | None) -> list[LabelKind]:
        has_truth = self.dataset.kind == self.task.kind
        if labels is None:
            return list(LABEL_KINDS) if has_truth else ["pseudo"]
        check_label_kinds(labels)
        if "truth" in labels and not has_truth:
            raise EvaluationError(
                f"labels=truth needs a data set with {self.task.kind} labels; this one holds "
                f"{self.dataset.kind}. Evaluate with labels=[pseudo], or choose a data set or task that fits."
            )
        return list(labels)

    def run(self, progress: Progress | None = None) -> Results:
        """Measure what is not measured yet, write the results, and return them.

        Raises:
            EvaluationError: If the folder is in use or cannot be written, or no picture could be evaluated.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock", timeout=0):
                return self._run(progress or (lambda *_: None))
        except Timeout as error:
            raise EvaluationError(
                f"another evaluation is writing to {self.folder}; wait for it, or choose another run_dir."
            ) from error
        except OSError as error:
            raise EvaluationError(f"{self.folder} cannot be written: {error.strerror or error}.") from error

    def _run(self, progress: Progress) -> Results:
        data = self.dataset.settings()
        base: Settings = {
            "data": data,
            "task": self.task.settings(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "device": next(self.task.parameters()).device.type,
        }
        originals = RecordFile(self.folder / "records", ORIGINALS, {**base, "system": ORIGINALS})
        self._predict_originals(originals, progress)
        if all(record.error for record in originals.records.values()):
            first = next(iter(originals.records.values()))
            raise EvaluationError(
                f"none of the {len(self.dataset)} pictures could be read; the first: {first.error}"
            )
        examples = self._keep_originals(originals)
        files: list[RecordFile] = []
        for system in self.systems:
            point = point_name(system.name, system.quality)
            file = RecordFile(self.folder / "records", point, {**base, **system.settings()})
            self._run_system(system, file, originals, examples, progress)
            files.append(file)
        results = self._results(data, originals, files, examples)
        named = {point_name(s.name, s.quality): f.records for s, f in zip(self.systems, files, strict=True)}
        write_examples(self.folder, examples, {ORIGINALS: originals.records, **named})
        results.write(self.folder)
        timed = [(s.name, s.quality, f.timings()) for s, f in zip(self.systems, files, strict=True)]
        write_csv(self.folder / TIMINGS_CSV, [timing_row(*row) for row in timed])
        return results

    def _pending(
        self, file: RecordFile, image_ids: Iterable[str], point: str = "", kept: Sequence[str] = ()
    ) -> list[list[int]]:
        """Indices of pictures without a good record, or that should have been kept and are not, in chunks."""

        def is_done(image_id: str) -> bool:
            record = file.records.get(image_id)
            has_picture = image_id not in kept or example_path(self.folder, image_id, point).exists()
            return record is not None and not record.error and has_picture

        wanted = set(image_ids)
        pending = [
            i
            for i, image_id in enumerate(self.dataset.image_ids)
            if image_id in wanted and not is_done(image_id)
        ]
        return [pending[start : start + self.chunk] for start in range(0, len(pending), self.chunk)]

    def _predict_originals(self, file: RecordFile, progress: Progress) -> None:
        every = self.dataset.image_ids
        pending = self._pending(file, every)
        done = len(every) - sum(map(len, pending))
        progress(ORIGINALS, done, len(every))
        for indices in pending:
            records = []
            for index in indices:
                image = self._read(index)
                if isinstance(image, Tensor):
                    prediction = prediction_to_json(predict(self.task, image))
                    height, width = image.shape[1:]
                    records.append(Record(every[index], height, width, prediction=prediction))
                else:
                    records.append(Record(every[index], error=image))
            file.append(records, [])
            done += len(indices)
            progress(ORIGINALS, done, len(every))

    def _run_system(
        self,
        system: System,
        file: RecordFile,
        originals: RecordFile,
        examples: Sequence[str],
        progress: Progress,
    ) -> None:
        point = point_name(system.name, system.quality)
        readable = [image_id for image_id in self.dataset.image_ids if not originals.records[image_id].error]
        pending = self._pending(file, readable, point, examples)
        done = len(readable) - sum(map(len, pending))
        progress(point, done, len(readable))
        for indices in pending:
            images = {index: self._read(index) for index in indices}
            good = {index: image for index, image in images.items() if isinstance(image, Tensor)}
            answers = dict(zip(good, system.run(list(good.values())), strict=True))
            records, timings = [], []
            for index in indices:
                image_id, image = self.dataset.image_ids[index], images[index]
                answer = answers.get(index)
                if not isinstance(image, Tensor):
                    records.append(Record(image_id, error=image))
                elif isinstance(answer, Answer):
                    if image_id in examples and answer.image is not None:
                        keep_example(self.folder, image_id, point, answer.image)
                    records.append(_record(image_id, image, answer))
                    times = {name: getattr(answer, name) for name in ("encode_s", "decode_s", "predict_s")}
                    timings.append({"image_id": image_id, **times})
                elif isinstance(answer, Failure):
                    error = f"{answer.stage} failed: {type(answer.error).__name__}: {answer.error}"
                    records.append(Record(image_id, error=error))
            file.append(records, timings)
            done += len(indices)
            progress(point, done, len(readable))

    def _read(self, index: int) -> Tensor | str:
        """The picture, or why there is none."""
        try:
            return self.dataset.image(index)
        except PictureError as error:
            return str(error)

    def _keep_originals(self, originals: RecordFile) -> list[str]:
        """Choose the example pictures and keep their originals."""
        in_order = [originals.records[image_id] for image_id in self.dataset.image_ids]
        examples = choose_examples([record for record in in_order if not record.error], self.num_examples)
        for image_id in examples:
            image = self._read(self.dataset.image_ids.index(image_id))
            if isinstance(image, Tensor):
                keep_example(self.folder, image_id, ORIGINALS, image)
        return examples

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
                notes.append(f"no picture with {kind} labels passed every operating point")
                continue
            notes += [labels.note] if labels.note else []
            accuracy[kind] = accuracy_of(originals.records, image_ids, labels, self.task)
            for system, records in zip(self.systems, every, strict=True):
                if all(image_id in records and not records[image_id].error for image_id in image_ids):
                    points.append(measure(system, records, image_ids, labels, self.task))
        if not points:
            first = failures[0].error if failures else notes[0]
            raise EvaluationError(f"no operating point has a picture that passed; the first failure: {first}")
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


def _record(image_id: str, image: Tensor, answer: Answer) -> Record:
    height, width = image.shape[1:]
    similarity = ms_ssim(answer.image, image) if answer.image is not None else float("nan")
    return Record(
        image_id=image_id,
        height=height,
        width=width,
        num_bytes=answer.num_bytes,
        psnr=psnr(answer.image, image) if answer.image is not None else None,
        ms_ssim=None if math.isnan(similarity) else similarity,
        prediction=prediction_to_json(answer.prediction),
    )
