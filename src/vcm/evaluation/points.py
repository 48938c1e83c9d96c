"""Points of a rate–accuracy curve, from per-picture records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vcm.evaluation.labels import LabelKind, LabelSet
from vcm.evaluation.records import Record, prediction_from_json
from vcm.evaluation.systems import System
from vcm.metrics.distortion import Distortion
from vcm.metrics.rate import Rate
from vcm.tasks import Task


@dataclass(frozen=True)
class Point:
    """One operating point, measured on one set of pictures against one kind of labels.

    Attributes:
        system: The curve's name.
        title: The curve's name for people.
        quality: Place on the curve, in the codec's scale.
        labels: What predictions were held against.
        num_images: Pictures that were counted.
        num_bytes: Of all their streams.
        num_pixels: Of all the originals.
        bpp: Σ bits / Σ pixels.
        mean_bpp: Mean of the pictures' own rates.
        psnr: Mean over pictures, dB; None where no picture is sent.
        ms_ssim: Mean over the pictures large enough for it; None where there is none.
        accuracy: The task's metric, by name, in [0, 1]; None where a figure is not defined.
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

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Point:
        """The inverse of `to_json`, where infinity may stand as "inf"."""
        psnr = content["psnr"]
        return cls(**{**content, "psnr": None if psnr is None else float(psnr)})


def shared_images(image_ids: Sequence[str], every: Sequence[Mapping[str, Record]]) -> list[str]:
    """Pictures that no operating point failed on, so that all curves are about the same ones.

    A point at which every picture failed does not take the others down with it.
    """
    living = [records for records in every if any(not record.error for record in records.values())]
    return [
        image_id
        for image_id in image_ids
        if all(image_id in records and not records[image_id].error for records in living)
    ]


def accuracy_of(
    records: Mapping[str, Record], image_ids: Sequence[str], labels: LabelSet, task: Task
) -> dict[str, float | None]:
    """The task's metric over the given pictures, against `labels`; NaN becomes None."""
    metric = task.metric()
    for image_id in image_ids:
        prediction = records[image_id].prediction
        assert prediction is not None, "a record without an error has a prediction"
        metric.update([labels.relevant(prediction_from_json(prediction))], [labels.targets[image_id]])
    return none_for_nan({name: float(value) for name, value in metric.compute().items()})


def measure(
    system: System, records: Mapping[str, Record], image_ids: Sequence[str], labels: LabelSet, task: Task
) -> Point:
    """The point that `records` make over `image_ids`, of which each has a target in `labels`."""
    rate = Rate()
    for image_id in image_ids:
        record = records[image_id]
        rate.update(record.num_bytes, record.height, record.width)
    rates = {key: float(value) for key, value in rate.compute().items()}
    distortions = _distortions([records[image_id] for image_id in image_ids])
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
        accuracy=accuracy_of(records, image_ids, labels, task),
    )


def _distortions(records: Sequence[Record]) -> dict[str, float | None]:
    """Mean PSNR and MS-SSIM of the records that have a decoded picture; None where none has."""
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
