"""Points of a rate–accuracy curve, computed from per-image records."""

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
    """A metric that can be evaluated on resamples of the images."""

    def resampled(self, draws: NDArray[np.int64]) -> dict[str, NDArray[np.floating[Any]]]:
        """Return values (B,) by name, from image indices (B, M) in the order of the updates."""


@dataclass(frozen=True)
class Point:
    """One operating point, measured on one set of images against one kind of labels.

    Attributes:
        system: Name of the curve.
        title: Display title of the curve.
        quality: Quality on the codec's scale.
        labels: Evaluation targets: "truth" or "pseudo".
        num_images: Number of images.
        num_bytes: Total length of their streams in bytes.
        num_pixels: Total number of pixels of the original images.
        bpp: Rate in bits per pixel, Σ bits / Σ pixels.
        mean_bpp: Mean of the per-image rates.
        psnr: Mean PSNR in dB; None if no images are sent.
        ms_ssim: Mean MS-SSIM over the images that are large enough for it; None if there are none.
        accuracy: Values of the task's metric by name, in [0, 1]; None where undefined.
        intervals: 95 % intervals [low, high] by name: "bpp", "psnr", "ms_ssim", and the accuracies.
        resamples: Values on the resamples from which the intervals were computed; None if there are none.
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
        """Return the point as a plain dict, without `resamples`."""
        return {key: value for key, value in asdict(self).items() if key != "resamples"}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Point:
        """Read the output of `to_json`, in which infinity may be written as "inf".

        Raises:
            ValueError: If a value is invalid; also KeyError, TypeError and OverflowError.
        """
        point = cls(**{**content, "psnr": _number_or_infinity(content["psnr"])})
        texts = (point.system, point.title, point.labels)
        expect(all(isinstance(text, str) for text in texts), "a point's name is not a string")
        counts = (point.num_images, point.num_bytes, point.num_pixels)
        expect(all(is_whole(count) and count >= 0 for count in counts), "a count is not a whole number")
        intervals = point.intervals
        expect(all(len(ends) == 2 for ends in intervals.values()), "an interval does not have two ends")
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
    """Raise ValueError with the message `otherwise` unless a condition holds."""
    if not is_met:
        raise ValueError(otherwise)


def finite(value: Any) -> float:  # noqa: ANN401  any JSON value
    """Return a finite number unchanged, except that large integers become floats.

    Raises:
        ValueError: If the value is not a finite number; OverflowError if it is too large.
    """
    expect(is_number(value) and math.isfinite(value), f"{str(value)[:40]!r} is not a finite number")
    return float(value) if isinstance(value, int) and abs(value) >= 1 << 53 else value


def numbers_by_name(content: Mapping[str, Any]) -> dict[str, float | None]:
    """Validate a mapping from names to finite numbers or None.

    Raises:
        ValueError: If the content is invalid; also AttributeError and OverflowError.
    """
    return {name: None if value is None else finite(value) for name, value in content.items()}


def _number_or_infinity(value: Any) -> float | None:  # noqa: ANN401  any JSON value
    expect(value is None or is_number(value) or value in ("inf", "-inf"), "a point's PSNR is not a number")
    return None if value is None else float(value)


def _end(value: Any) -> float:  # noqa: ANN401  any JSON value
    """Read one end of an interval, which can be infinite for PSNR."""
    return float(value) if value in ("inf", "-inf") else finite(value)


def shared_images(image_ids: Sequence[str], every: Sequence[Mapping[str, Record]]) -> list[str]:
    """Return the images that succeeded at every operating point, so that all curves use the same images.

    Operating points at which every image failed are ignored.
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
    """Compute the task's metric on each row of `draws`, or only on the first if the metric cannot resample.

    Args:
        records: Records by image id.
        image_ids: Ids of the images that `draws` indexes.
        labels: Evaluation targets of these images.
        task: Task that provides the metric.
        draws: Image indices of the resamples.
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
    """Compute the operating point of `records` over `image_ids`. For the arguments, see `accuracy_of`."""
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
    """Return the values of `accuracy_of` on the full set of images (row 0)."""
    return none_for_nan({name: float(values[0]) for name, values in accuracy.items()})


def _distortions(records: Sequence[Record]) -> dict[str, float | None]:
    """Return mean PSNR and MS-SSIM of the records with a decoded image; None if there are none."""
    distortion = Distortion()
    for record in records:
        if record.psnr is not None:
            distortion.update(record.psnr, float("nan") if record.ms_ssim is None else record.ms_ssim)
    if distortion.num_psnr == 0:
        return {"psnr": None, "ms_ssim": None}
    return none_for_nan({name: float(value) for name, value in distortion.compute().items()})


def none_for_nan(values: Mapping[str, float]) -> dict[str, float | None]:
    """Replace NaN by None."""
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def point_name(system: str, quality: float) -> str:
    """Name of an operating point, such as "bpg-37"; different qualities get different names."""
    return f"{system}-{quality:.15g}"
