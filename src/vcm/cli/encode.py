"""`vcm encode`: images into files of a standard codec, by an encoder that knows their reader."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vcm.cli.compress import add_output_options
from vcm.cli.files import Batch, Input, Outputs, find_inputs, names_a_file
from vcm.cli.preprocess import output_names
from vcm.errors import ArgumentError, MissingToolError

if TYPE_CHECKING:
    from torch import Tensor

    from vcm.codecs import Codec
    from vcm.evaluation.reader import Importance
    from vcm.tasks import Task


def run(arguments: Sequence[str]) -> int:
    """Encode each image; returns 0 if all are done, 1 if some are, 2 if nothing could begin."""
    known = _parser().parse_args(arguments)
    from vcm.data.reading import find_pictures, read_picture

    codec = _codec(known.codec, known.quality, known.preset)
    importance = _importance(known, codec)
    if known.at_reader and known.reader is None:
        raise ArgumentError("--at-reader", expected="with --for TASK, whose size it is", got="no --for")
    one_name: Path | None = known.output if names_a_file(known.output, known.images) else None
    if one_name is not None and one_name.suffix.lower() != codec.suffix:
        raise ArgumentError(
            "--output", expected=f"a folder, or a name that ends in {codec.suffix}", got=str(one_name)
        )
    batch = Batch("encode")
    inputs, problems = find_inputs(known.images, find_pictures, "images")
    for problem in problems:
        batch.tell(problem)
    if not inputs:
        return 2
    task: Task | None = None
    if importance is not None or known.at_reader:
        from vcm.cli.tasks import configured_task

        task = configured_task(known.reader, known.device)
    targets = output_names(inputs, known.output, codec.suffix)
    outputs = Outputs([source.path for source in inputs], overwrite=known.overwrite)

    def encode(source: Input) -> tuple[int, int]:
        target = one_name or targets[source]
        outputs.claim(target, source.path)
        image = read_picture(source.path)
        data = encode_for_reader(image, codec, task, at_reader=known.at_reader, importance=importance)
        with outputs.write(target) as file:
            file.write(data)
        return len(data), image.shape[1] * image.shape[2]

    batch.run(inputs, encode)
    return batch.finish()


def encode_for_reader(
    image: Tensor, codec: Codec, task: Task | None, *, at_reader: bool, importance: Importance | None
) -> bytes:
    """Encode an image for a task.

    Args:
        image: (3, H, W) uint8 RGB.
        codec: Takes QP offsets where `importance` is given.
        task: The reader; None where neither of the others asks for one.
        at_reader: Whether the image is scaled to the size at which the task reads it.
        importance: How QP offsets are made; None for none.
    """
    from vcm.evaluation.reader import WithOffsets, scale_to_reader

    if task is not None and at_reader:
        image = scale_to_reader(image, task)
    if task is not None and importance is not None:
        return WithOffsets(codec, importance.offsets(image, task), importance.block).encode(image)
    return codec.encode(image)


def _codec(name: str, quality: float | None, preset: str | None) -> Codec:
    from vcm.cli.codecs import standard_codecs

    kinds = standard_codecs()
    if name not in kinds:
        raise ArgumentError(
            "--codec",
            expected=f"one of {', '.join(kinds)}",
            got=name,
            remedy="For vcm's learned codecs, use `vcm compress`.",
        )
    kind = kinds[name]
    if reason := kind.unavailable():
        raise MissingToolError(reason)
    options = {} if preset is None else {"preset": preset}
    if preset is not None and name != "bpg":
        raise ArgumentError("--preset", expected="given with --codec bpg alone", got=name)
    return kind(**options) if quality is None else kind(quality, **options)  # type: ignore[call-arg]


def _importance(known: argparse.Namespace, codec: Codec) -> Importance | None:
    """How QP offsets are made; None without --for, with --no-importance, or for a codec without offsets."""
    from vcm.evaluation.reader import Importance, takes_offsets

    given = {name: getattr(known, name) for name in ("alpha", "block", "clip")}
    given = {name: value for name, value in given.items() if value is not None}
    if known.reader is None or known.no_importance or not takes_offsets(codec):
        if given:
            raise ArgumentError(
                f"--{next(iter(given))}",
                expected="given with --for TASK and --codec bpg, without --no-importance",
                got=next(iter(given.values())),
            )
        return None
    return Importance(**given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vcm encode",
        description="Encode images by a standard codec, for a reader that is known: with --for, BPG spends "
        "its bits where the outputs of that network depend on the pixels, and --at-reader scales images to "
        "the size at which it reads them. Every decoder of the format reads the files. bpp is over the "
        "original images' pixels.",
    )
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMG", help="images, and folders to search for images"
    )
    parser.add_argument("--codec", default="bpg", help="bpg (default), jpeg, …: `vcm codecs` lists them")
    parser.add_argument(
        "--quality", type=float, metavar="Q", help="in the codec's own scale, such as BPG's QP, 0 to 51"
    )
    parser.add_argument("--preset", help="for BPG: ultrafast to placebo; by default veryslow")
    parser.add_argument(
        "--for",
        dest="reader",
        metavar="TASK",
        help="the reader: detection (yolov3_tiny), classification (mobilenet_v2), or another name of "
        "`vcm evaluate task=…`",
    )
    parser.add_argument(
        "--at-reader", action="store_true", help="scale images to the size at which TASK reads, never up"
    )
    parser.add_argument("--no-importance", action="store_true", help="the same QP everywhere")
    parser.add_argument("--alpha", type=float, help="QP steps for each doubling of importance")
    parser.add_argument("--block", type=int, help="side of a block with its own QP, in pixels: 16, 32 or 64")
    parser.add_argument("--clip", type=int, help="largest QP offset, 0 to 51")
    add_output_options(parser, "the outputs' folder, which mirrors that of the images, or one output's name")
    return parser
