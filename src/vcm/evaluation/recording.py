"""Pictures through systems into records, in an order and in portions that a restart can pick up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor

from vcm.codecs.pool import Failure
from vcm.data.datasets import PictureDataset
from vcm.errors import PictureError
from vcm.evaluation.examples import ORIGINALS, choose_examples, example_path, keep_example, point_name
from vcm.evaluation.records import Record, RecordFile, prediction_to_json
from vcm.evaluation.systems import Answer, System, predict
from vcm.metrics.distortion import ms_ssim, psnr
from vcm.tasks import Task
from vcm.types import Settings

Progress = Callable[[str, int, int], None]
"""Called with (operating point, pictures done, pictures in all)."""


class Recorder:
    """Records what the task and each system make of a data set's pictures, where there is no record yet."""

    def __init__(
        self,
        task: Task,
        dataset: PictureDataset,
        folder: Path,
        settings: Settings,
        *,
        chunk: int,
        progress: Progress,
    ) -> None:
        """Take what all records have in common.

        Args:
            task: Predicts.
            dataset: The pictures.
            folder: Where records and example pictures go.
            settings: What decides every record, beside the system's own settings.
            chunk: Pictures that are run and recorded together.
            progress: Told how far each operating point is.
        """
        self.task, self.dataset, self.folder, self.settings = task, dataset, folder, settings
        self.chunk, self.progress = chunk, progress

    def record_originals(self) -> RecordFile:
        """Predict on every original picture."""
        file = RecordFile(self.folder / "records", ORIGINALS, {**self.settings, "system": ORIGINALS})
        for indices in self._pending(file, ORIGINALS, self.dataset.image_ids):
            records = []
            for index in indices:
                image_id, image = self.dataset.image_ids[index], self._read(index)
                if isinstance(image, Tensor):
                    prediction = prediction_to_json(predict(self.task, image))
                    height, width = image.shape[1:]
                    records.append(Record(image_id, height, width, prediction=prediction))
                else:
                    records.append(Record(image_id, error=image))
            file.append(records, [])
        return file

    def keep_originals(self, originals: RecordFile, count: int) -> list[str]:
        """Choose example pictures, keep their originals, and return their ids."""
        in_order = [originals.records[image_id] for image_id in self.dataset.image_ids]
        examples = choose_examples([record for record in in_order if not record.error], count)
        for image_id in examples:
            image = self._read(self.dataset.image_ids.index(image_id))
            if isinstance(image, Tensor):
                keep_example(self.folder, image_id, originals.stem, image)
        return examples

    def record_system(self, system: System, originals: RecordFile, examples: Sequence[str]) -> RecordFile:
        """Run a system on every picture whose original could be read; keep the example pictures."""
        point = point_name(system.name, system.quality)
        file = RecordFile(self.folder / "records", point, {**self.settings, **system.settings()})
        readable = [image_id for image_id in self.dataset.image_ids if not originals.records[image_id].error]
        for indices in self._pending(file, point, readable, examples):
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
                        keep_example(self.folder, image_id, file.stem, answer.image)
                    records.append(_record(image_id, image, answer))
                    times = {name: getattr(answer, name) for name in ("encode_s", "decode_s", "predict_s")}
                    timings.append({"image_id": image_id, **times})
                elif isinstance(answer, Failure):
                    error = f"{answer.stage} failed: {type(answer.error).__name__}: {answer.error}"
                    records.append(Record(image_id, error=error))
            file.append(records, timings)
        return file

    def _pending(
        self, file: RecordFile, point: str, image_ids: Iterable[str], examples: Sequence[str] = ()
    ) -> Iterable[list[int]]:
        """Chunks of indices without a good record, or whose picture should have been kept and was not."""
        wanted = set(image_ids)
        pending = [
            index
            for index, image_id in enumerate(self.dataset.image_ids)
            if image_id in wanted and not self._is_done(file, image_id, image_id in examples)
        ]
        done = len(wanted) - len(pending)
        self.progress(point, done, len(wanted))
        for start in range(0, len(pending), self.chunk):
            indices = pending[start : start + self.chunk]
            yield indices
            done += len(indices)
            self.progress(point, done, len(wanted))

    def _is_done(self, file: RecordFile, image_id: str, is_example: bool) -> bool:
        record = file.records.get(image_id)
        if record is None or record.error:
            return False
        is_kept = record.psnr is None or example_path(self.folder, image_id, file.stem).exists()
        return is_kept or not is_example

    def _read(self, index: int) -> Tensor | str:
        """The picture, or why there is none."""
        try:
            return self.dataset.image(index)
        except PictureError as error:
            return str(error)


def _record(image_id: str, image: Tensor, answer: Answer) -> Record:
    height, width = image.shape[1:]
    similarity = ms_ssim(answer.image, image) if answer.image is not None else math.nan
    return Record(
        image_id=image_id,
        height=height,
        width=width,
        num_bytes=answer.num_bytes,
        psnr=psnr(answer.image, image) if answer.image is not None else None,
        ms_ssim=None if math.isnan(similarity) else similarity,
        prediction=prediction_to_json(answer.prediction),
    )
