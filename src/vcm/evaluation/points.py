"""Points of a rate–accuracy curve, from per-image records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vcm.evaluation.bootstrap import Draws, Resamples, intervals_of, resample
from vcm.evaluation.labels import LabelKind, LabelSet
from vcm.evaluation.pipelines import Pipeline
from vcm.evaluation.records import Record, prediction_from_json
from vcm.metrics.distortion import Distortion
from vcm.metrics.rate import Rate
from vcm.tasks import Task
from vcm.validation import is_number, is_whole


@runtime_checkable
class ResamplingMetric(Protocol):
    """A metric that can tell its figures on resamples of the images."""

    def resampled(self, draws: NDArray[np.int64]) -> dict[str, NDArray[np.floating[Any]]]:
        """(B,) figures by name, from (B, M) indices of images in the order in which they were added."""


@dataclass(frozen=True)
class Point:
    """One operating point, measured on one set of images against one kind of labels.

    Attributes:
        system: The curve's name.
        title: The curve's name for people.
        quality: Place on the curve, in the codec's scale.
        labels: The evaluation targets.
        num_images: Images that were counted.
        num_bytes: Of all their streams.
        num_pixels: Of all the originals.
        bpp: Σ bits / Σ pixels.
        mean_bpp: Mean of the images' own rates.
        psnr: Mean over images, dB; None where no image is sent.
        ms_ssim: Mean over the images large enough for it; None where there is none.
        accuracy: The task's metric, by name, in [0, 1]; None where a figure is not defined.
        intervals: 95 % interval [low, high] by name: "bpp", "psnr", "ms_ssim", and the accuracies.
        resamples: What the intervals are from; None where there are none.
    """

    system: str
    title: str
    quality: float
    labels: LabelKind
    num_images: int
    num_bytes: int
    num_pixels: int
    bpp: float
    mean_bpp: float
    psnr: float | None
    ms_ssim: float | None
    accuracy: dict[str, float | None]
    intervals: dict[str, list[float]] = field(default_factory=dict)
    resamples: Resamples | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dict, without `resamples`."""
        return {key: value for key, value in asdict(self).items() if key != "resamples"}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Point:
        """Read what `to_json` gave, where infinity may stand as "inf".

        Raises:
            ValueError: If a value is not what a point holds; also KeyError, TypeError and OverflowError.
        """
        point = cls(**{**content, "psnr": _number_or_infinity(content["psnr"])})
        texts = (point.system, point.title, point.labels)
        expect(all(isinstance(text, str) for text in texts), "a point's name is no text")
        counts = (point.num_images, point.num_bytes, point.num_pixels)
        expect(all(is_whole(count) and count >= 0 for count in counts), "a point's count is no whole number")
        intervals = point.intervals
        expect(all(len(ends) == 2 for ends in intervals.values()), "an interval has not two ends")
        return replace(
            point,
            quality=finite(point.quality),
            bpp=finite(point.bpp),
            mean_bpp=finite(point.mean_bpp),
            ms_ssim=None if point.ms_ssim is None else finite(point.ms_ssim),
            accuracy=numbers_by_name(point.accuracy),
            intervals={name: [_end(end) for end in ends] for name, ends in intervals.items()},
        )


def expect(is_met: bool, otherwise: str) -> None:
    """Raise ValueError with the text `otherwise` unless a condition is met."""
    if not is_met:
        raise ValueError(otherwise)


def finite(value: Any) -> float:  # noqa: ANN401  what JSON holds
    """A finite number.

    Raises:
        ValueError: If it is something else; OverflowError where it is too large.
    """
    expect(is_number(value) and math.isfinite(value), f"{str(value)[:40]!r} is no finite number")
    return float(value) if isinstance(value, int) and abs(value) >= 1 << 53 else value


def numbers_by_name(content: Mapping[str, Any]) -> dict[str, float | None]:
    """Finite numbers, or None, by name.

    Raises:
        ValueError: If the content is something else; also AttributeError and OverflowError.
    """
    return {name: None if value is None else finite(value) for name, value in content.items()}


def _number_or_infinity(value: Any) -> float | None:  # noqa: ANN401  what JSON holds
    expect(value is None or is_number(value) or value in ("inf", "-inf"), "a point's PSNR is no number")
    return None if value is None else float(value)


def _end(value: Any) -> float:  # noqa: ANN401  what JSON holds
    """The end of an interval, which may be infinite for PSNR."""
    return float(value) if value in ("inf", "-inf") else finite(value)


def shared_images(image_ids: Sequence[str], every: Sequence[Mapping[str, Record]]) -> list[str]:
    """Images that no operating point failed on, so that all curves are about the same ones.

    A point at which every image failed does not take the others down with it.
    """
    living = [records for records in every if any(not record.error for record in records.values())]
    return [
        image_id
        for image_id in image_ids
        if all(image_id in records and not records[image_id].error for records in living)
    ]


def accuracy_of(
    records: Mapping[str, Record], image_ids: Sequence[str], labels: LabelSet, task: Task, draws: Draws
) -> dict[str, NDArray[np.floating[Any]]]:
    """The task's metric on each row of `draws`; on the first alone where the metric cannot resample.

    Args:
        records: By image id.
        image_ids: The images that `draws` draws from.
        labels: Evaluation targets, one for each image.
        task: Says what is measured.
        draws: Which images are drawn.
    """
    metric = task.metric()
    for image_id in image_ids:
        prediction = records[image_id].prediction
        assert prediction is not None, "a record without an error has a prediction"
        metric.update([labels.relevant(prediction_from_json(prediction))], [labels.targets[image_id]])
    if isinstance(metric, ResamplingMetric):
        return metric.resampled(draws.indices)
    return {name: np.array([float(value)]) for name, value in metric.compute().items()}


def measure(
    system: Pipeline,
    records: Mapping[str, Record],
    image_ids: Sequence[str],
    labels: LabelSet,
    task: Task,
    *,
    draws: Draws,
) -> Point:
    """The point that `records` make over `image_ids`; otherwise as `accuracy_of`."""
    rate = Rate()
    kept = [records[image_id] for image_id in image_ids]
    for record in kept:
        rate.update(record.num_bytes, record.height, record.width)
    rates = {key: float(value) for key, value in rate.compute().items()}
    distortions = _distortions(kept)
    accuracy = accuracy_of(records, image_ids, labels, task, draws)
    resamples = resample(kept, accuracy, draws)
    return Point(
        system=system.name,
        title=system.title,
        quality=system.quality,
        labels=labels.kind,
        num_images=len(image_ids),
        num_bytes=int(rate.num_bits) // 8,
        num_pixels=int(rate.num_pixels),
        bpp=rates["bpp"],
        mean_bpp=rates["mean_bpp"],
        psnr=distortions["psnr"],
        ms_ssim=distortions["ms_ssim"],
        accuracy=of_all(accuracy),
        intervals=intervals_of(resamples),
        resamples=resamples,
    )


def of_all(accuracy: Mapping[str, NDArray[np.floating[Any]]]) -> dict[str, float | None]:
    """What `accuracy_of` found on all images, each once."""
    return none_for_nan({name: float(values[0]) for name, values in accuracy.items()})


def _distortions(records: Sequence[Record]) -> dict[str, float | None]:
    """Mean PSNR and MS-SSIM of the records that have a decoded image; None where none has."""
    distortion = Distortion()
    for record in records:
        if record.psnr is not None:
            distortion.update(record.psnr, float("nan") if record.ms_ssim is None else record.ms_ssim)
    if distortion.num_psnr == 0:
        return {"psnr": None, "ms_ssim": None}
    return none_for_nan({name: float(value) for name, value in distortion.compute().items()})


def none_for_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    """The same values with None where a figure is not defined."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def point_name(system: str, quality: float) -> str:
    """Name of an operating point, such as "bpg-37"; different qualities get different names."""
    return f"{system}-{quality:.15g}"
