"""`vcm compress`: encode images into bitstreams."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vcm.cli.bulk import Bulk, add_bulk_options
from vcm.cli.paths import (
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
    """Compress images. Returns 0 if all were compressed, 1 if some were skipped, 2 if there was no input."""
    parser = argparse.ArgumentParser(
        prog="vcm compress",
        description="Encode images with a trained model. A stream for a task carries the features that its "
        "detector or classifier needs; one for viewing carries an image for people.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMG", help="images, or folders of images")
    parser.add_argument(
        "--model",
        type=Path,
        metavar="M",
        help="model.safetensors written by `vcm train`; default: the model shipped with vcm, for yolov3-tiny",
    )
    parser.add_argument(
        "--for",
        required=True,
        dest="purpose",
        metavar="PURPOSE",
        help=f"task of the stream: detection, {VIEWING}, or another task of the model",
    )
    parser.add_argument(
        "--quality",
        type=float,
        metavar="Q",
        help="operating point of a model with several, such as the shipped model (1 to 5); higher means "
        "better quality and more bits; default: the middle one",
    )
    parser.add_argument(
        "--effort",
        type=int,
        default=0,
        metavar="N",
        help="steps of the per-image encoder-side search, a fraction of a second each; improves the accuracy "
        "at about the same size, and every decoder of the model reads the streams; most of the gain comes "
        "with 10 steps; default: 0",
    )
    add_output_options(parser, "output folder, which mirrors the input folders, or the name of one stream")
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
    # Load the networks now, so that missing weights are reported before any work.
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

        # A stream does not record its effort: an existing file may come from another one.
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
    """Compress images one at a time, with a model that is loaded once per process.

    Args:
        path: Model file; None for the model shipped with vcm.
        device: Device of the networks.
        quality: Operating point of the streams; None for the middle one.
        effort: Steps of the encoder-side search per image.
        task: Task of the streams.
    """

    def __init__(self, path: Path | None, device: str, quality: float | None, effort: int, task: str) -> None:
        self._settings = (path, device, quality, effort, task)
        self.model: Model | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the networks."""
        return Compression, self._settings

    def __call__(self, item: Item, on_step: Callable[[int, int], None] | None = None) -> Outcome:
        """Compress one image and write its stream."""
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
    """Return whether a file is an intact, current stream of `source` with the expected header fields."""
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
    """Add --output, --overwrite and --device."""
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help=f"{output}; default: next to the inputs"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument(
        "--device", default="cpu", help="device of the networks: cpu, cuda or auto; default: cpu"
    )
