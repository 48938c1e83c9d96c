"""`vcm decompress`: decode streams into images and predictions."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vcm.cli.bulk import Bulk, add_bulk_options
from vcm.cli.compress import add_output_options
from vcm.cli.decoding import Decoding, Spool
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
    writing,
)
from vcm.cli.marks import bears_mark
from vcm.cli.work import Item, Outcome
from vcm.errors import ArgumentError, OutputError


def run(arguments: Sequence[str]) -> int:
    """Decode each stream; returns 0 if all are done, 1 if some are, 2 if nothing could begin."""
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
        help="original image, or folder of them, to draw boxes on; by default an empty canvas",
    )
    parser.add_argument(
        "--min-score", type=float, default=0.3, help="lowest score of a box that is drawn; 0.3 by default"
    )
    add_bulk_options(parser)
    return parser


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
        """Those of all streams that the model decodes."""
        return sorted(self.model.network.fingerprint(task).hex() for task in self.model.network.tasks)

    def place(self, source: Input) -> Item:
        """What comes of a stream: a PNG file, or a share of the JSON file.

        Raises:
            BitstreamError: If it is no stream of the model's.
            OutputError: If the name that was given does not suit.
        """
        from vcm.codecs.learned.container import read_stream

        header = read_stream(read_stream_file(source.path)).header
        task = self.model.task_of(header)
        kind = "image" if task == RECONSTRUCTION else self.model.features(task)[1].kind
        options: dict[str, object] = {"task": task, "kind": kind, "size": header.size}
        if kind == "image":
            if self.one_name and self.one_name.suffix.lower() != ".png":
                raise OutputError(f"{self.one_name}: this stream gives an image; name it .png.")
            return Item(source.path, self._target(source, ".png"), options)
        name = "detections.json" if kind == "detection" else "classifications.json"
        json_file = self.folder / name if self.several else self._target(source, ".json")
        options |= {"json": json_file, "image_id": self._ids[source.path]}
        if kind == "classification":
            return Item(source.path, json_file, options, is_shared=True)
        options |= {"original": self._original(source), "drawn_on": self.known.original, "draws": True}
        return Item(source.path, self._target(source, ".png"), options)

    def claim(self, item: Item, goes_on: bool) -> Item:
        """Make sure that a stream's files may be written."""
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
            # Drawn by a call that was stopped before it wrote the JSON file.
            return replace(item, options={**item.options, "draws": False})
        return item

    def collect(self, outcome: Outcome) -> None:
        """Keep a stream's predictions for `write_predictions`."""
        json_file = outcome.item.options.get("json")
        if json_file is not None:
            if json_file not in self._found:
                self._found[json_file] = Spool()
            self._found[json_file].add(self._order[outcome.item.source], outcome.content)

    def write_predictions(self) -> list[str]:
        """Write the JSON files, in the streams' order; returns what went wrong."""
        problems = []
        for path, spool in self._found.items():
            try:
                with writing(path) as file:
                    spool.write(file)
            except OutputError as error:
                problems.append(str(error))
        return problems

    def _target(self, source: Input, suffix: str) -> Path:
        """Where something that comes of one stream goes: photo.jpg.vcm becomes photo.jpg.png."""
        if self.one_name is not None:
            return self.one_name.with_suffix(suffix)
        place = source.below(self.known.output)
        return place.with_name(place.name.removesuffix(STREAM_SUFFIX) + suffix)

    def _original(self, source: Input) -> Path | None:
        """The image that boxes are drawn on."""
        original: Path | None = self.known.original
        if original is not None and is_folder(original):
            place = source.below(original)
            return place.with_name(place.name.removesuffix(STREAM_SUFFIX))
        return original
