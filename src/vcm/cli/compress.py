"""`vcm compress`: encode images into streams."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vcm.cli.bulk import Bulk, add_bulk_options
from vcm.cli.files import (
    RECONSTRUCTION,
    STREAM_SUFFIX,
    VIEWING,
    Batch,
    Input,
    Outputs,
    find_inputs,
    is_newer,
    names_a_file,
    read_stream_file,
    writing,
)
from vcm.cli.work import Item, Outcome
from vcm.errors import BitstreamError, ImageError

if TYPE_CHECKING:
    from vcm.cli.models import Model


def run(arguments: Sequence[str]) -> int:
    """Compress each image; returns 0 if all are done, 1 if some are, 2 if nothing could begin."""
    parser = argparse.ArgumentParser(
        prog="vcm compress",
        description="Turn images into streams by a trained model. A narrow stream carries what a detector "
        "or classifier needs; the one for viewing, an image for people.",
    )
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMG", help="images, and folders to search for images"
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="M",
        help="model.safetensors, as `vcm train` wrote it; by default vcm's own, for yolov3-tiny",
    )
    parser.add_argument(
        "--for",
        required=True,
        dest="purpose",
        metavar="PURPOSE",
        help=f"detection, {VIEWING}, or another task that the model has a width for",
    )
    parser.add_argument(
        "--quality",
        type=float,
        metavar="Q",
        help="for a model of several qualities, such as vcm's own (1 to 5): the larger, the more is kept, at "
        "more bits; by default the middle one",
    )
    parser.add_argument(
        "--effort",
        type=int,
        default=0,
        metavar="N",
        help="steps of a search for each image, a fraction of a second each: streams of about the same size "
        "that carry more, for any decoder of the model; 10 get most of it, 0 by default",
    )
    add_output_options(parser, "the streams' folder, which mirrors that of the images, or one stream's name")
    add_bulk_options(parser)
    known = parser.parse_args(arguments)
    bulk = Bulk(known, known.images)
    from vcm.data.reading import find_images

    batch = Batch("compress")
    inputs, problems = find_inputs(known.images, find_images, "images")
    for problem in problems:
        batch.tell(problem)
    if not inputs:
        return 2
    from vcm.cli.models import Model

    model = Model(known.model, known.device, known.quality, effort=known.effort)
    task = model.task_for(known.purpose)
    work = Compression(known.model, known.device, known.quality, known.effort, task)
    # What is missing is told before any work.
    if task != RECONSTRUCTION:
        model.features(task)
    else:
        model.images  # noqa: B018  loads
    work.model = model
    outputs = Outputs([model.path, *(source.path for source in inputs)], overwrite=known.overwrite)
    expected = model.header_key(task)
    one_name = known.output if names_a_file(known.output, known.images) else None

    def place(source: Input) -> Item:
        below = source.below(known.output)
        return Item(source.path, one_name or below.with_name(below.name + STREAM_SUFFIX))

    def claim(item: Item, goes_on: bool) -> Item:
        def is_current() -> bool:
            return is_own(item.target, expected, item.source)

        # Streams do not tell the effort that they were made with: one that is there may be of another.
        if known.effort and goes_on:
            outputs.claim(item.target, item.source, replaceable=is_current)
        else:
            outputs.claim(item.target, item.source, lambda: not known.effort and is_current())
        return item

    settings = {"command": "compress", "stream": [task, expected[1].hex(), expected[2]]}
    settings |= {"effort": known.effort}
    bulk.run(batch, inputs, place, claim, work, settings=settings, is_slow=bool(known.effort))
    return batch.finish()


class Compression:
    """Compress one image after the other with a model that is loaded once in each process.

    Args:
        path: Of the model file; None for vcm's own.
        device: Where networks run.
        quality: Of the streams; None for the middle one.
        effort: Steps of a search for each image.
        task: One of the model's.
    """

    def __init__(self, path: Path | None, device: str, quality: float | None, effort: int, task: str) -> None:
        self._settings = (path, device, quality, effort, task)
        self.model: Model | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the networks."""
        return Compression, self._settings

    def __call__(self, item: Item, on_step: Callable[[int, int], None] | None = None) -> Outcome:
        """Write an image's stream."""
        from vcm.cli.models import Model
        from vcm.data.reading import read_image

        path, device, quality, effort, task = self._settings
        if self.model is None:
            self.model = Model(path, device, quality, effort=effort)
        image = read_image(item.source)
        data = self.model.encode(image, task, on_step)
        with writing(item.target) as file:
            file.write(data)
        return Outcome(item, len(data), image.shape[1] * image.shape[2])


def is_own(path: Path, expected: tuple[str, bytes, float], source: Path) -> bool:
    """Whether a file is a whole stream of this purpose, fingerprint and quality, of the image as it is."""
    from vcm.codecs.learned.container import read_stream
    from vcm.data.reading import image_size

    try:
        header = read_stream(read_stream_file(path)).header
        size = image_size(source)
    except (BitstreamError, ImageError):
        return False
    key = (header.purpose, header.fingerprint, header.quality)
    return key == expected and header.size == size and is_newer(path, source)


def add_output_options(parser: argparse.ArgumentParser, output: str) -> None:
    """The options that `compress` and `decompress` share."""
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help=f"{output}; beside the inputs by default"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    parser.add_argument(
        "--device", default="cpu", help="where the networks run: cpu, cuda, or auto; cpu by default"
    )
