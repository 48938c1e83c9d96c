"""`vcm compress`: pictures into streams."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

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
)
from vcm.errors import BitstreamError, PictureError


def run(arguments: Sequence[str]) -> int:
    """Compress each picture; returns 0 if all are done, 1 if some are, 2 if nothing could begin."""
    parser = argparse.ArgumentParser(
        prog="vcm compress",
        description="Turn pictures into streams by a trained model. A narrow stream carries what a detector "
        "or classifier needs; the one for viewing, a picture for people.",
    )
    parser.add_argument(
        "pictures", nargs="+", type=Path, metavar="IMG", help="pictures, and folders to search for pictures"
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
    add_output_options(
        parser, "the streams' folder, which mirrors that of the pictures, or one stream's name"
    )
    known = parser.parse_args(arguments)
    from vcm.data.reading import find_pictures, read_picture

    batch = Batch("compress")
    inputs, problems = find_inputs(known.pictures, find_pictures, "pictures")
    for problem in problems:
        batch.tell(problem)
    if not inputs:
        return 2
    from vcm.cli.models import Model

    model = Model(known.model, known.device, known.quality, effort=known.effort)
    task = model.task_for(known.purpose)
    if known.effort:
        from vcm.cli.devices import use_one_thread

        use_one_thread(model.device.type)
    # What is missing is told before any work.
    if task != RECONSTRUCTION:
        model.features(task)
    else:
        model.pictures  # noqa: B018  loads
    outputs = Outputs([model.path, *(source.path for source in inputs)], overwrite=known.overwrite)
    expected = model.header_key(task)
    one_name = known.output if names_a_file(known.output, known.pictures) else None

    def compress(source: Input) -> tuple[int, int]:
        place = source.below(known.output)
        target = one_name or place.with_name(place.name + STREAM_SUFFIX)
        # Streams do not tell the effort that they were made with: one that is there may be of another.
        outputs.claim(target, source.path, lambda: not known.effort and is_own(target, expected, source.path))
        image = read_picture(source.path)
        with batch.step_bar(source.path.name) as bar:
            data = model.encode(image, task, bar)
        with outputs.write(target) as file:
            file.write(data)
        return len(data), image.shape[1] * image.shape[2]

    batch.run(inputs, compress)
    return batch.finish()


def is_own(path: Path, expected: tuple[str, bytes, float], source: Path) -> bool:
    """Whether a file is a whole stream of this purpose, fingerprint and quality, of the image as it is."""
    from vcm.codecs.learned.container import read_stream
    from vcm.data.reading import picture_size

    try:
        header = read_stream(read_stream_file(path)).header
        size = picture_size(source)
    except (BitstreamError, PictureError):
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
