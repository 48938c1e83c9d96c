"""Run pipelines and write per-image records. Interrupted runs resume."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from vcm.codecs import CodecPool, Failure
from vcm.codecs.pool import attempt
from vcm.data.datasets import ImageDataset
from vcm.errors import ImageError, VCMError
from vcm.evaluation.examples import ORIGINALS, choose_examples, example_path, keep_example
from vcm.evaluation.matching import is_near, matched_bytes, quality_between
from vcm.evaluation.pipelines import Answer, Pipeline, predict
from vcm.evaluation.points import point_name
from vcm.evaluation.records import Record, RecordFile, prediction_to_json
from vcm.metrics.distortion import ms_ssim, psnr
from vcm.tasks import Task
from vcm.types import Settings

Progress = Callable[[str, int, int], None]
"""Progress callback; receives the operating point, the images done and the total."""

MAX_STEPS = 4
"""Maximum number of qualities tried to give an example a stream of the common length."""
CHUNK = 4
"""Images per thread that are recorded together; a kill loses at most these."""


SHARES = "shares"
"""Folder for the records of worker processes, while they run."""


@dataclass(frozen=True)
class Share:
    """Share of the images of one process: those with index ≡ `number` modulo `count`.

    Attributes:
        number: Index of the process, from 0.
        count: Number of processes.
    """

    number: int
    count: int

    def folder(self, run: Path) -> Path:
        """Return the folder of the share's records in a run folder."""
        return run / SHARES / f"{self.number}-of-{self.count}"


class Recorder:
    """Records the task's predictions on the originals and the systems' outputs, where they are missing."""

    def __init__(
        self,
        task: Task,
        dataset: ImageDataset,
        folder: Path,
        settings: Settings,
        *,
        pool: CodecPool,
        progress: Progress,
        share: Share | None = None,
    ) -> None:
        """Set up the recorder.

        Args:
            task: Task network.
            dataset: The images.
            folder: Folder for records and example images.
            settings: Settings that every record depends on, in addition to the system's own.
            pool: Threads that do the work; a few images per thread are processed and recorded together.
            progress: Progress callback.
            share: Share of the images that this process records in a folder of its own; None to record all
                images and to merge the records of earlier shares.
        """
        self.task, self.dataset, self.folder, self.settings = task, dataset, folder, settings
        self.share, self._taken = share, set[tuple[str, str]]()
        self._changed: dict[str, list[str]] = {}
        self.pool, self.chunk, self.progress = pool, CHUNK * pool.workers, progress

    def record_originals(self) -> RecordFile:
        """Record the task's predictions on all original images."""
        file = self._open(ORIGINALS, {"system": ORIGINALS})
        for indices in self._pending(file, ORIGINALS, self.dataset.image_ids):
            records = self.pool.map(self._original, indices)
            file.append(records, [])
        return file

    def is_complete(self, systems: Sequence[Pipeline]) -> bool:
        """Merge records of killed processes, and return whether all records exist without errors."""
        points = [(ORIGINALS, {"system": ORIGINALS})]
        points += [(point_name(system.name, system.quality), system.settings()) for system in systems]
        files = [self._open(point, settings) for point, settings in points]
        self.remove_shares()
        self._taken.clear()
        return all(
            self._is_done(file, image_id, False) for file in files for image_id in self.dataset.image_ids
        )

    def remove_shares(self) -> None:
        """Remove the records of shares, which have been merged."""
        shutil.rmtree(self.folder / SHARES, ignore_errors=True)

    def _open(self, point: str, settings: Settings) -> RecordFile:
        """Open the records of a point: those of this process's share, or all, including those of shares."""
        whole = {**self.settings, **settings}
        file = RecordFile(self.folder / "records", point, whole)
        file.changed = self._changed.setdefault(file.stem, file.changed)  # from the file's first opening
        if self.share is not None:
            own = RecordFile(self.share.folder(self.folder), point, whole)
            own.records.update(file.records)
            return own
        found: dict[str, Record] = {}
        timings: dict[str, dict[str, Any]] = {}
        for folder in sorted((self.folder / SHARES).glob("*")):
            if (folder / file.path.name).is_file():
                part = RecordFile(folder, point, whole)
                found.update(part.records)
                timings.update(part.timings_by_image())
        new = [
            i
            for i in self.dataset.image_ids
            if i in found and (file.stem, i) not in self._taken and not _is_good(file.records.get(i))
        ]
        if new:
            file.append([found[i] for i in new], [{"image_id": i, **timings[i]} for i in new if i in timings])
            self._taken |= {(file.stem, image_id) for image_id in new}
        return file

    def _is_mine(self, index: int) -> bool:
        return self.share is None or index % self.share.count == self.share.number

    def _original(self, index: int) -> Record:
        image_id, image = self.dataset.image_ids[index], self._read(index)
        if not isinstance(image, Tensor):
            return Record(image_id, error=image)
        height, width = image.shape[1:]
        prediction = attempt("predict", partial(predict, self.task), image)
        if isinstance(prediction, Failure):
            return Record(image_id, error=str(prediction))
        return Record(image_id, height, width, prediction=prediction_to_json(prediction.value))

    def keep_originals(self, originals: RecordFile, count: int) -> list[str]:
        """Choose example images, store their originals, and return their ids."""
        in_order = [originals.records[image_id] for image_id in self.dataset.image_ids]
        examples = choose_examples([record for record in in_order if not record.error], count)
        for image_id in examples:
            image = self._read(self.dataset.image_ids.index(image_id))
            if isinstance(image, Tensor):
                keep_example(self.folder, image_id, originals.stem, image)
        return examples

    def record_between(
        self,
        systems: Sequence[Pipeline],
        files: Sequence[RecordFile],
        originals: RecordFile,
        examples: Sequence[str],
    ) -> dict[str, list[tuple[Pipeline, RecordFile]]]:
        """Encode examples at intermediate qualities, where a system has no stream near the common length.

        Args:
            systems: The operating points.
            files: Records of the systems.
            originals: Records of the originals.
            examples: Ids of the example images.

        Returns:
            By image id, systems at intermediate qualities with their records of the image.
        """
        found: dict[str, list[tuple[Pipeline, RecordFile]]] = {}
        for image_id in examples:
            known: dict[str, dict[float, int]] = {}
            for system, file in zip(systems, files, strict=True):
                if (record := file.records.get(image_id)) is not None and record.num_bytes > 0:
                    known.setdefault(system.name, {})[system.quality] = record.num_bytes
            target = matched_bytes({name: list(own.values()) for name, own in known.items()}, between=True)
            for name, own in known.items():
                system = next(system for system in systems if system.name == name)
                if other := self._record_near(system, own, target, originals, image_id):
                    found.setdefault(image_id, []).append(other)
        return found

    def _record_near(
        self, system: Pipeline, known: dict[float, int], target: int, originals: RecordFile, image_id: str
    ) -> tuple[Pipeline, RecordFile] | None:
        """Find an intermediate quality whose stream is near `target`; None if not needed or not found."""
        scale = system.scale
        for _ in range(MAX_STEPS):
            if scale is None or any(is_near(num_bytes, target) for num_bytes in known.values()):
                return None
            quality = quality_between(known, target, scale)
            if quality is None:
                return None
            try:
                other = system.at(quality)
            except VCMError:  # a codec without intermediate qualities
                return None
            file = self.record_system(other, originals, [image_id], only=image_id)
            record = file.records.get(image_id)
            if record is None or record.error:
                return None
            if is_near(record.num_bytes, target):
                return other, file
            known[quality] = record.num_bytes
        return None

    def record_system(
        self, system: Pipeline, originals: RecordFile, examples: Sequence[str], *, only: str | None = None
    ) -> RecordFile:
        """Run a system on every image that the task could process, and store the decoded example images.

        Args:
            system: The system.
            originals: Records of the originals.
            examples: Ids of the images whose decoded versions are stored.
            only: Id of the only image to process; None for all.
        """
        point = point_name(system.name, system.quality)
        file = self._open(point, system.settings())
        readable = [
            image_id
            for index, image_id in enumerate(self.dataset.image_ids)
            if self._is_mine(index) and not originals.records[image_id].error
        ]
        readable = [image_id for image_id in readable if only in (None, image_id)]
        for indices in self._pending(file, point, readable, examples):
            images = dict(zip(indices, self.pool.map(self._read, indices), strict=True))
            good = {index: image for index, image in images.items() if isinstance(image, Tensor)}
            answers = dict(zip(good, system.run(list(good.values()), self.pool), strict=True))

            def record(index: int) -> Record:
                return _record(self.dataset.image_ids[index], images[index], answers.get(index))  # noqa: B023

            records = self.pool.map(record, indices)
            timings = []
            for index, answer in answers.items():
                image_id = self.dataset.image_ids[index]
                if isinstance(answer, Answer):
                    times = {name: getattr(answer, name) for name in ("encode_s", "decode_s", "predict_s")}
                    timings.append({"image_id": image_id, **times})
                    if image_id in examples and answer.image is not None:
                        keep_example(self.folder, image_id, file.stem, answer.image)
            file.append(records, timings)
        return file

    def _pending(
        self, file: RecordFile, point: str, image_ids: Iterable[str], examples: Sequence[str] = ()
    ) -> Iterable[list[int]]:
        """Yield chunks of image indices without a good record, or without a stored example image."""
        wanted = set(image_ids)
        mine = [
            (i, name) for i, name in enumerate(self.dataset.image_ids) if name in wanted and self._is_mine(i)
        ]
        pending = [index for index, name in mine if not self._is_done(file, name, name in examples)]
        done = len(mine) - len(pending)
        self.progress(point, done, len(mine))
        for start in range(0, len(pending), self.chunk):
            indices = pending[start : start + self.chunk]
            yield indices
            done += len(indices)
            self.progress(point, done, len(mine))

    def _is_done(self, file: RecordFile, image_id: str, is_example: bool) -> bool:
        record = file.records.get(image_id)
        if record is None or not (_is_good(record) or (file.stem, image_id) in self._taken):
            return False
        is_kept = record.psnr is None or example_path(self.folder, image_id, file.stem).exists()
        return is_kept or not is_example

    def _read(self, index: int) -> Tensor | str:
        """Return the image, or the error message if it cannot be read."""
        try:
            return self.dataset.image(index)
        except ImageError as error:
            return str(error)


def _is_good(record: Record | None) -> bool:
    return record is not None and not record.error


def _record(image_id: str, image: Tensor | str, answer: Answer | Failure | None) -> Record:
    """Build the record of one image; `image` is an error message if the image could not be read."""
    if not isinstance(image, Tensor):
        return Record(image_id, error=image)
    if not isinstance(answer, Answer):
        assert answer is not None, "a system answers for every image"
        return Record(image_id, error=str(answer))
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
