"""Decode bitstreams into PNG files and predictions."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from vcm.cli.marks import content_mark, png_info
from vcm.cli.paths import read_stream_file, writing
from vcm.cli.work import Item, Outcome
from vcm.errors import ArgumentError

if TYPE_CHECKING:
    from vcm.cli.models import Model


class Spool:
    """On-disk buffer for the entries of a long JSON list, which are written out in order at the end."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  `close` does
        self._places: dict[int, tuple[int, int]] = {}

    def add(self, number: int, entries: Sequence[object]) -> None:
        """Store the entries of one file under its position in the list."""
        text = ", ".join(json.dumps(entry) for entry in entries).encode()
        self._places[number] = self._file.seek(0, os.SEEK_END), len(text)
        self._file.write(text)

    def write(self, file: BinaryIO) -> None:
        """Write the JSON list to a file."""
        file.write(b"[")
        is_first = True
        for number in sorted(self._places):
            start, length = self._places[number]
            if length:
                self._file.seek(start)
                file.write((b"" if is_first else b", ") + self._file.read(length))
                is_first = False
        file.write(b"]")

    def close(self) -> None:
        """Delete the buffer."""
        self._file.close()


class Decoding:
    """Decode streams one at a time, with a model that is loaded once per process.

    Args:
        path: Model file; None for the model shipped with vcm.
        device: Device of the networks.
        min_score: Lowest score of a box that is drawn, in [0, 1].
    """

    def __init__(self, path: Path | None, device: str, min_score: float) -> None:
        self._settings = (path, device, min_score)
        self.model: Model | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle without the networks."""
        return Decoding, self._settings

    def mark(self, item: Item) -> str:
        """Return the provenance mark of the PNG file that this stream is decoded to."""
        return self._mark_of(item, read_stream_file(item.source))

    def _mark_of(self, item: Item, data: bytes) -> str:
        parts = [] if item.options["kind"] == "image" else [self._settings[2], item.options["drawn_on"]]
        return content_mark(hashlib.sha256(data).hexdigest(), *parts)

    def __call__(self, item: Item, on_step: Callable[[int, int], None] | None = None) -> Outcome:
        """Decode one stream, write its PNG file if it has one, and return its predictions as `content`."""
        from vcm.cli.models import Model

        del on_step
        if self.model is None:
            self.model = Model(*self._settings[:2])
        data = read_stream_file(item.source)
        height, width = item.options["size"]
        content: list[Any] | None = None
        if item.options["kind"] == "image":
            pixels = self.model.images.decode(data).permute(1, 2, 0).contiguous().numpy()
            self._write_png(item, data, Image.fromarray(pixels))
        elif item.options["kind"] == "detection":
            content = self._detections(self.model, item, data)
        else:
            content = self._classes(self.model, item, data)
        return Outcome(item, len(data), height * width, content=content)

    def _detections(self, model: Model, item: Item, data: bytes) -> list[Any]:
        from vcm.categories import category_ids
        from vcm.cli.predictions import coco_results, draw
        from vcm.types import Detections

        task = item.options["task"]
        canvas = self._canvas(item) if item.options["draws"] else None
        found = model.predict(data, task)
        assert isinstance(found, Detections)
        categories = model.features(task)[1].categories
        if canvas is not None:
            draw(canvas, found, categories, min_score=self._settings[2])
            self._write_png(item, data, canvas)
        return coco_results(found, item.options["image_id"], category_ids(categories))

    def _classes(self, model: Model, item: Item, data: bytes) -> list[Any]:
        from vcm.cli.predictions import best_classes
        from vcm.types import ClassScores

        task = item.options["task"]
        scores = model.predict(data, task)
        assert isinstance(scores, ClassScores)
        classes = best_classes(scores, model.features(task)[1].categories)
        return [{"image_id": item.options["image_id"], "classes": classes}]

    def _canvas(self, item: Item) -> Image.Image:
        """Return the image that boxes are drawn on: the original if given, else an empty canvas."""
        from vcm.cli.predictions import empty_canvas
        from vcm.data.reading import read_image

        original: Path | None = item.options["original"]
        size: tuple[int, int] = item.options["size"]
        if original is None:
            return empty_canvas(size)
        image = read_image(original)
        if tuple(image.shape[1:]) != size:
            raise ArgumentError(
                "--original",
                expected=f"the original of the stream, of {size[1]} × {size[0]} pixels",
                got=f"{original} of {image.shape[2]} × {image.shape[1]}",
            )
        return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())

    def _write_png(self, item: Item, data: bytes, image: Image.Image) -> None:
        with writing(item.target) as file:
            image.save(file, "PNG", pnginfo=png_info(self._mark_of(item, data)))
