"""`vcm decompress`: streams into pictures and predictions."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vcm.cli.compress import add_output_options
from vcm.cli.files import (
    RECONSTRUCTION,
    STREAM_SUFFIX,
    AlreadyDone,
    Batch,
    Input,
    Outputs,
    find_inputs,
    is_folder,
    names_a_file,
    read_stream_file,
)
from vcm.cli.marks import bears_mark, content_mark, png_info
from vcm.errors import ArgumentError, OutputError


def run(arguments: Sequence[str]) -> int:
    """Decode each stream; returns 0 if all are done, 1 if some are, 2 if nothing could begin."""
    known = _parser().parse_args(arguments)
    from vcm.files import find_files
    from vcm.tasks.checks import check_fraction

    check_fraction("--min-score", known.min_score)
    batch = Batch("decompress")
    inputs, problems = find_inputs(
        known.streams, lambda folder, problems: find_files(folder, [STREAM_SUFFIX], problems), "streams"
    )
    for problem in problems:
        batch.tell(problem)
    if not inputs:
        return 2
    decompression = Decompression(known, inputs)
    batch.run(inputs, decompression.decode)
    for problem in decompression.write_predictions():
        batch.tell(problem)
    return batch.finish()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vcm decompress",
        description="Turn streams into what they are for. A stream for viewing gives a PNG; one for "
        "detection a JSON file in COCO's results form, and a PNG with the boxes drawn; one for "
        "classification a JSON file with the five best classes. Several streams share detections.json and "
        "classifications.json.",
    )
    parser.add_argument(
        "streams",
        nargs="*",
        default=[Path()],
        type=Path,
        metavar="STREAM",
        help="streams, and folders to search for *.vcm; the current folder by default",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="M",
        help="the model file that the streams were made with; by default vcm's own",
    )
    add_output_options(
        parser, "the outputs' folder, which mirrors that of the streams, or a .png's or .json's name"
    )
    parser.add_argument(
        "--original",
        type=Path,
        metavar="PATH",
        help="original picture, or folder of them, to draw boxes on; by default an empty canvas",
    )
    parser.add_argument(
        "--min-score", type=float, default=0.3, help="lowest score of a box that is drawn; 0.3 by default"
    )
    return parser


@dataclass(frozen=True)
class Stream:
    """A stream's bytes, its picture's (height, width), and whom it is for."""

    data: bytes
    size: tuple[int, int]
    task: str


class Decompression:
    """One call's work.

    Args:
        known: The call's arguments.
        inputs: The streams.

    Raises:
        ArgumentError: If they do not fit each other.
        WeightsError: If the model file is no model.
    """

    def __init__(self, known: argparse.Namespace, inputs: Sequence[Input]) -> None:
        from vcm.cli.models import Model
        from vcm.cli.predictions import image_ids

        self.known = known
        self.several = len(known.streams) > 1 or is_folder(known.streams[0])
        self.one_name: Path | None = known.output if names_a_file(known.output, known.streams) else None
        if self.one_name and self.one_name.suffix.lower() not in (".png", ".json"):
            raise ArgumentError(
                "--output", expected="a folder, or a name that ends in .png or .json", got=str(known.output)
            )
        original: Path | None = known.original
        if original is not None and not (
            is_folder(original) or (os.path.lexists(original) and not self.several)
        ):
            expected = "a folder of pictures" if self.several else "a picture or a folder of pictures"
            raise ArgumentError("--original", expected=expected, got=str(original))
        self.model = Model(known.model, known.device)
        kept = [self.model.path, *(source.path for source in inputs), *([original] if original else [])]
        self.outputs = Outputs(kept, overwrite=known.overwrite)
        self.folder: Path = known.output or inputs[0].root
        self._found: dict[Path, list[dict[str, object]]] = {}
        self._ids = image_ids([source.path for source in inputs])

    def decode(self, source: Input) -> tuple[int, int]:
        """Write what a stream gives; predictions are kept for `write_predictions`.

        Returns:
            The stream's bytes and the original picture's pixels.
        """
        from vcm.codecs.learned.container import read_stream

        data = read_stream_file(source.path)
        header = read_stream(data).header
        stream = Stream(data, header.size, self.model.task_of(header))
        if stream.task == RECONSTRUCTION:
            self._picture(source, stream)
        elif self.model.features(stream.task)[1].kind == "detection":
            self._detections(source, stream)
        else:
            self._classes(source, stream)
        return len(data), header.size[0] * header.size[1]

    def write_predictions(self) -> list[str]:
        """Write the JSON files; returns what went wrong."""
        problems = []
        for path, entries in self._found.items():
            try:
                with self.outputs.write(path) as file:
                    file.write(json.dumps(entries).encode())
            except OutputError as error:
                problems.append(str(error))
        return problems

    def _picture(self, source: Input, stream: Stream) -> None:
        if self.one_name and self.one_name.suffix.lower() != ".png":
            raise OutputError(f"{self.one_name}: this stream gives a picture; name it .png.")
        target = self._target(source, ".png")
        mark = content_mark(hashlib.sha256(stream.data).hexdigest())
        self.outputs.claim(target, source.path, lambda: bears_mark(target, mark))
        pixels = self.model.pictures.decode(stream.data).permute(1, 2, 0).contiguous().numpy()
        self._write_png(target, Image.fromarray(pixels), mark)

    def _detections(self, source: Input, stream: Stream) -> None:
        from vcm.categories import category_ids
        from vcm.cli.predictions import coco_results, draw
        from vcm.types import Detections

        target = self._target(source, ".png")
        path = self._claim_predictions(source, "detections.json")
        canvas: Image.Image | None = None
        drawn = (self.known.min_score, self.known.original)
        mark = content_mark(hashlib.sha256(stream.data).hexdigest(), *drawn)
        with suppress(AlreadyDone):  # drawn by a call that was stopped before it wrote the JSON file
            self.outputs.claim(target, source.path, lambda: bears_mark(target, mark))
            canvas = self._canvas(source, stream.size)
        found = self.model.predict(stream.data, stream.task)
        assert isinstance(found, Detections)
        categories = self.model.features(stream.task)[1].categories
        if canvas is not None:
            draw(canvas, found, categories, min_score=self.known.min_score)
            self._write_png(target, canvas, mark)
        results = coco_results(found, self._ids[source.path], category_ids(categories))
        self._found.setdefault(path, []).extend(results)

    def _classes(self, source: Input, stream: Stream) -> None:
        from vcm.cli.predictions import best_classes
        from vcm.types import ClassScores

        path = self._claim_predictions(source, "classifications.json")
        scores = self.model.predict(stream.data, stream.task)
        assert isinstance(scores, ClassScores)
        classes = best_classes(scores, self.model.features(stream.task)[1].categories)
        self._found.setdefault(path, []).append({"image_id": self._ids[source.path], "classes": classes})

    def _target(self, source: Input, suffix: str) -> Path:
        """Where something that comes of one stream goes: photo.jpg.vcm becomes photo.jpg.png."""
        if self.one_name is not None:
            return self.one_name.with_suffix(suffix)
        place = source.below(self.known.output)
        return place.with_name(place.name.removesuffix(STREAM_SUFFIX) + suffix)

    def _claim_predictions(self, source: Input, shared_name: str) -> Path:
        """The JSON file that a stream's predictions go to."""
        path = self.folder / shared_name if self.several else self._target(source, ".json")
        self.outputs.claim(path, path if self.several else source.path)
        return path

    def _canvas(self, source: Input, size: tuple[int, int]) -> Image.Image:
        """What boxes are drawn on: the original where it was given."""
        from vcm.cli.predictions import empty_canvas
        from vcm.data.reading import read_picture

        original: Path | None = self.known.original
        if original is None:
            return empty_canvas(size)
        if is_folder(original):
            place = source.below(original)
            original = place.with_name(place.name.removesuffix(STREAM_SUFFIX))
        image = read_picture(original)
        if tuple(image.shape[1:]) != size:
            raise ArgumentError(
                "--original",
                expected=f"the picture that was compressed, of {size[1]} × {size[0]} pixels",
                got=f"{original} of {image.shape[2]} × {image.shape[1]}",
            )
        return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())

    def _write_png(self, target: Path, image: Image.Image, mark: str) -> None:
        with self.outputs.write(target) as file:
            image.save(file, "PNG", pnginfo=png_info(mark))
