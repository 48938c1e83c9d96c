"""Versions of example images, and the selection of those at about the same rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vcm.evaluation.examples import EXAMPLES_JSON, ORIGINALS
from vcm.evaluation.folders import read_json_inside
from vcm.evaluation.matching import is_near, matched_bytes
from vcm.evaluation.points import expect, finite, point_name
from vcm.evaluation.records import MAX_WHOLE, prediction_from_json
from vcm.evaluation.report.sources import Source
from vcm.evaluation.results import DAMAGE, Results
from vcm.files import printable
from vcm.types import Detections, Prediction
from vcm.validation import is_whole


@dataclass(frozen=True, eq=False)
class Version:
    """Entry of one version of an image in examples.json.

    Attributes:
        system: Name of the codec; empty for the original.
        quality: Quality on the codec's scale; 0 for the original.
        is_between: Whether the quality lies between operating points of the run.
        folder: Folder of the run.
        image: Path of the image to show, relative to `folder`.
        sends_image: Whether the codec sends an image; otherwise the original is shown.
        size: (height, width) of the original in pixels.
        num_bytes: Stream length in bytes; 0 for the original.
        prediction: Prediction of the task.
    """

    system: str
    quality: float
    is_between: bool
    folder: Path
    image: str
    sends_image: bool
    size: tuple[int, int]
    num_bytes: int
    prediction: Prediction


def read_versions(source: Source, results: Results, notes: list[str]) -> dict[str, list[Version]]:
    """Read the versions of a run's example images, by image id.

    Args:
        source: Run to read.
        results: Results that the report shows; versions of other codecs are ignored.
        notes: List to which a line is appended for each damaged entry.
    """
    where = printable(source.folder / EXAMPLES_JSON)
    try:
        content = read_json_inside(source.folder, EXAMPLES_JSON)
        listed = {image_id: dict(versions) for image_id, versions in content.items()}
    except FileNotFoundError:
        return {}
    except DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        notes.append(f"{where} is damaged ({printable(reason)}): no example images of this run")
        return {}
    shown = {point.system: point.psnr is not None for point in results.points}
    points = {
        point_name(own, point.quality): (own, point.quality)
        for own, new in source.systems.items()
        for point in results.points
        if point.system == new
    }
    points |= {point_name(own, there): (own, here) for own, (there, here) in source.joined.items()}
    found: dict[str, list[Version]] = {}
    for image_id, versions in listed.items():
        for name, version in versions.items():
            try:
                own, quality = points.get(name) or (version.get("system", ""), version.get("quality", 0))
                system = source.systems.get(own, "")
                if name == ORIGINALS or system in shown:
                    sends = shown.get(system, True)
                    image = version if sends else versions[ORIGINALS]
                    read = _version(version, image["picture"], source.folder, results)
                    kept = Version(system, finite(quality), name not in points, sends_image=sends, **read)
                    expect(name == ORIGINALS or kept.num_bytes > 0, "it has no bytes")
                    found.setdefault(image_id, []).append(kept)
            except DAMAGE as error:
                left_out = f"{printable(name)} of {printable(image_id)} is left out"
                notes.append(f"{where} is damaged ({printable(error)}): {left_out}")
    return found


def _version(content: Any, image: Any, folder: Path, results: Results) -> dict[str, Any]:  # noqa: ANN401  JSON
    """Check an entry and build a `Version`.

    Raises:
        ValueError: If a value is invalid; also KeyError, TypeError and RuntimeError.
    """
    size, num_bytes = (content["height"], content["width"]), content["num_bytes"]
    expect(all(is_whole(side) and 0 < side < 1 << 24 for side in size), "its size is no size of an image")
    expect(is_whole(num_bytes) and 0 <= num_bytes < MAX_WHOLE, "its bytes are no whole number")
    expect(isinstance(image, str), "its image is no path")
    prediction = prediction_from_json(content["prediction"])
    count = len(results.categories)
    if isinstance(prediction, Detections):
        labels = prediction.labels
        expect(bool(((labels >= 0) & (labels < count)).all()), "its labels are no categories of the task")
        expect(bool(prediction.boxes.isfinite().all()), "its boxes are not finite")
    else:
        expect(len(prediction.logits) == count, "its logits are not one a category")
    return {
        "folder": folder,
        "image": image,
        "size": size,
        "num_bytes": num_bytes,
        "prediction": prediction,
    }


def at_one_rate(streams: Mapping[str, Sequence[Version]]) -> tuple[list[Version], list[str], int]:
    """Select each codec's version nearest to one rate, by log rate.

    Args:
        streams: Versions of one image by system.

    Returns:
        The selected versions; the codecs without a version within 15 %; the rate as a stream length in bytes.
    """
    target = matched_bytes({name: [v.num_bytes for v in of] for name, of in streams.items()})
    chosen, without = [], []
    for system, own in streams.items():
        nearest = min(own, key=lambda version: abs(math.log(version.num_bytes / target)))
        if is_near(nearest.num_bytes, target):
            chosen.append(nearest)
        else:
            without.append(system)
    return chosen, without, target
