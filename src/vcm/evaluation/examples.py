"""Keep decoded versions of example images for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from vcm.evaluation.folders import make_folder
from vcm.evaluation.pipelines import Pipeline
from vcm.evaluation.points import point_name
from vcm.evaluation.records import Record, RecordFile, prediction_from_json
from vcm.evaluation.results import write_json
from vcm.files import file_name, replacing
from vcm.types import Detections

ORIGINALS = "originals"
EXAMPLES_JSON = "examples/examples.json"
CONFIDENT = 0.5
"""Minimum score of a box that counts as clear."""


def example_path(folder: Path, image_id: str, stem: str) -> Path:
    """Return the path of one version of an example image; `stem` is that of the operating point's records."""
    return folder / "examples" / file_name(image_id) / f"{stem}.png"


def keep_example(folder: Path, image_id: str, stem: str, image: Tensor) -> None:
    """Store one version of an image, (3, H, W) uint8, as a PNG file."""
    path = example_path(folder, image_id, stem)
    make_folder(folder, path.parent.relative_to(folder).as_posix())
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, format="PNG", compress_level=1)


def choose_examples(originals: Sequence[Record], count: int) -> list[str]:
    """Choose `count` images, evenly spread over those with two to eight clear boxes, or over all images.

    Args:
        originals: Records of the original images without failures, in the dataset's order.
        count: Number of images.

    Returns:
        Ids of the images.
    """
    chosen = [record for record in originals if _has_some_boxes(record)]
    if len(chosen) < count:
        chosen = list(originals)
    count = min(count, len(chosen))
    return [chosen[(2 * place + 1) * len(chosen) // (2 * count)].image_id for place in range(count)]


def _has_some_boxes(record: Record) -> bool:
    assert record.prediction is not None, "a record without an error has a prediction"
    prediction = prediction_from_json(record.prediction)
    return isinstance(prediction, Detections) and 2 <= int((prediction.scores >= CONFIDENT).sum()) <= 8


def write_examples(
    folder: Path,
    examples: Sequence[str],
    files: Mapping[str, RecordFile],
    between: Mapping[str, Sequence[tuple[Pipeline, RecordFile]]],
) -> None:
    """Write the description of all versions of the example images for the report.

    Args:
        folder: Folder of the evaluation.
        examples: Ids of the example images.
        files: Records by operating point, including ORIGINALS.
        between: By image id, systems at intermediate qualities with their records of the image.
    """
    content: dict[str, dict[str, Any]] = {}
    for image_id in examples:
        versions = content[image_id] = {
            point: _version(folder, record, file.stem)
            for point, file in files.items()
            if (record := file.records.get(image_id)) is not None and not record.error
        }
        for system, file in between.get(image_id, ()):
            said = {"system": system.name, "quality": system.quality}
            version = _version(folder, file.records[image_id], file.stem)
            versions[point_name(system.name, system.quality)] = {**version, **said}
    make_folder(folder, Path(EXAMPLES_JSON).parent.as_posix())
    write_json(folder / EXAMPLES_JSON, content)


def _version(folder: Path, record: Record, stem: str) -> dict[str, Any]:
    return {
        "picture": example_path(folder, record.image_id, stem).relative_to(folder).as_posix(),
        "height": record.height,
        "width": record.width,
        "num_bytes": record.num_bytes,
        "prediction": record.prediction,
    }
