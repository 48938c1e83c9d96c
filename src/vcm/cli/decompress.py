"""`vcm decompress`: decode bitstreams into images and predictions."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vcm.cli.bulk import Bulk, add_bulk_options
from vcm.cli.compress import add_output_options
from vcm.cli.decoding import Decoding, Spool
from vcm.cli.marks import bears_mark
from vcm.cli.paths import (
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
    writing,
)
from vcm.cli.work import Item, Outcome
from vcm.errors import ArgumentError, OutputError


def run(arguments: Sequence[str]) -> int:
    """Decode streams. Returns 0 if all were decoded, 1 if some were skipped, 2 if there was no input."""
    known = _parser().parse_args(arguments)
    from vcm.files import find_files
    from vcm.validation import check_between

    check_between("--min-score", known.min_score, 0, 1)
    bulk = Bulk(known, known.streams)
    batch = Batch("decompress")
    inputs, problems = find_inputs(
        known.streams, lambda folder, problems: find_files(folder, [STREAM_SUFFIX], problems), "streams"
    )
    for problem in problems:
        batch.tell(problem)
    if not inputs:
        return 2
    with Decompression(known, inputs) as decompression:
        settings = {"command": "decompress", "model": decompression.fingerprints()}
        settings |= {"drawn": [known.min_score, known.original]}
        bulk.run(
            batch,
            inputs,
            decompression.place,
            decompression.claim,
            decompression.work,
            settings=settings,
            collect=decompression.collect,
        )
        for problem in decompression.write_predictions():
            batch.tell(problem)
    return batch.finish()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vcm decompress",
        description="Decode streams. A stream for viewing gives a PNG file; one for detection, a JSON file "
        "in the COCO results format and a PNG file with the boxes drawn; one for classification, a JSON file "
        "with the five most likely classes. If there are several streams, their predictions are written to "
        "one detections.json and one classifications.json.",
    )
    parser.add_argument(
        "streams",
        nargs="*",
        default=[Path()],
        type=Path,
        metavar="STREAM",
        help="streams, or folders searched for *.vcm; default: the current folder",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="M",
        help="model file that the streams were encoded with; default: the model shipped with vcm",
    )
    add_output_options(
        parser, "output folder, which mirrors the input folders, or the name of the one .png or .json file"
    )
    parser.add_argument(
        "--original",
        type=Path,
        metavar="PATH",
        help="original image, or folder of originals, to draw boxes on; default: an empty canvas",
    )
    parser.add_argument(
        "--min-score", type=float, default=0.3, help="lowest score of a box that is drawn; default: 0.3"
    )
    add_bulk_options(parser)
    return parser


class Decompression:
    """State of one `vcm decompress` call.

    Args:
        known: Arguments of the command.
        inputs: The streams.

    Raises:
        ArgumentError: If --output is a file name without .png or .json, or --original does not fit the
            inputs.
        WeightsError: If the model file is not a model.
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
            expected = "a folder of images" if self.several else "an image or a folder of images"
            raise ArgumentError("--original", expected=expected, got=str(original))
        self.model = Model(known.model, known.device)
        kept = [self.model.path, *(source.path for source in inputs), *([original] if original else [])]
        self.outputs = Outputs(kept, overwrite=known.overwrite)
        self.folder: Path = known.output or inputs[0].root
        self.work = Decoding(known.model, known.device, known.min_score)
        self.work.model = self.model
        self._found: dict[Path, Spool] = {}
        self._ids = image_ids([source.path for source in inputs])
        self._order = {path: number for number, path in enumerate(self._ids)}

    def __enter__(self) -> Decompression:
        return self

    def __exit__(self, *error: object) -> None:
        for spool in self._found.values():
            spool.close()

    def fingerprints(self) -> list[str]:
        """Return the fingerprints of all streams that the model decodes."""
        return sorted(self.model.network.fingerprint(task).hex() for task in self.model.network.tasks)

    def place(self, source: Input) -> Item:
        """Return the work item of a stream, with the path of its PNG or JSON file.

        Raises:
            BitstreamError: If it is not a stream of this model.
            OutputError: If the stream gives an image and --output does not end in .png.
        """
        from vcm.codecs.learned.container import read_stream

        header = read_stream(read_stream_file(source.path)).header
        task = self.model.task_of(header)
        kind = "image" if task == RECONSTRUCTION else self.model.features(task)[1].kind
        options: dict[str, object] = {"task": task, "kind": kind, "size": header.size}
        if kind == "image":
            if self.one_name and self.one_name.suffix.lower() != ".png":
                raise OutputError(f"{self.one_name}: the stream gives an image. Use a name ending in .png.")
            return Item(source.path, self._target(source, ".png"), options)
        name = "detections.json" if kind == "detection" else "classifications.json"
        json_file = self.folder / name if self.several else self._target(source, ".json")
        options |= {"json": json_file, "image_id": self._ids[source.path]}
        if kind == "classification":
            return Item(source.path, json_file, options, is_shared=True)
        options |= {"original": self._original(source), "drawn_on": self.known.original, "draws": True}
        return Item(source.path, self._target(source, ".png"), options)

    def claim(self, item: Item, goes_on: bool) -> Item:
        """Check that the output files of a stream may be written."""
        json_file: Path | None = item.options.get("json")
        if json_file is not None:
            owner = json_file if self.several else item.source
            self.outputs.claim(json_file, owner, replaceable=lambda: goes_on)
        if item.is_shared:
            return item
        try:
            self.outputs.claim(
                item.target, item.source, lambda: bears_mark(item.target, self.work.mark(item))
            )
        except AlreadyDone:
            if json_file is None:
                raise
            # An interrupted run drew the image but did not write the JSON file.
            return replace(item, options={**item.options, "draws": False})
        return item

    def collect(self, outcome: Outcome) -> None:
        """Keep the predictions of a stream for `write_predictions`."""
        json_file = outcome.item.options.get("json")
        if json_file is not None:
            if json_file not in self._found:
                self._found[json_file] = Spool()
            self._found[json_file].add(self._order[outcome.item.source], outcome.content)

    def write_predictions(self) -> list[str]:
        """Write the JSON files in the order of the streams, and return the error messages."""
        problems = []
        for path, spool in self._found.items():
            try:
                with writing(path) as file:
                    spool.write(file)
            except OutputError as error:
                problems.append(str(error))
        return problems

    def _target(self, source: Input, suffix: str) -> Path:
        """Return the output path of a stream: photo.jpg.vcm becomes photo.jpg.png."""
        if self.one_name is not None:
            return self.one_name.with_suffix(suffix)
        place = source.below(self.known.output)
        return place.with_name(place.name.removesuffix(STREAM_SUFFIX) + suffix)

    def _original(self, source: Input) -> Path | None:
        """Return the path of the image that boxes are drawn on."""
        original: Path | None = self.known.original
        if original is not None and is_folder(original):
            place = source.below(original)
            return place.with_name(place.name.removesuffix(STREAM_SUFFIX))
        return original
