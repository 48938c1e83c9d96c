"""COCO's instances JSON."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from vcm.data.boxes import BoxReader, whole_number
from vcm.data.datasets import PictureDataset, check_folder, check_limit
from vcm.data.jsonfile import parse_json
from vcm.data.reading import Header, find_pictures, picture_id, read_header
from vcm.data.sizes import Annotated, Placement, Size, describe, extent_of, place, stored_orientation
from vcm.errors import ArgumentError, DatasetError, PictureError
from vcm.files import printable, read_bytes
from vcm.types import BoxTarget, Settings

MAX_ANNOTATION_BYTES = 2 << 30
"""Largest annotation file that is read: 2 GiB; COCO's own for training has 0.5."""

Annotation = dict[str, Any]


class COCODataset(PictureDataset):
    """Images with boxes from an annotation file in COCO's instances form.

    An image id is COCO's own number as text; an image outside the annotation file goes by its file name.

    Stated widths and heights are compared with the image files. Boxes are scaled where the image was resized
    uniformly, and rotated where EXIF turns the file and the boxes are in its stored orientation; a size that
    is missing, zero or swapped is replaced by the file's. An image whose size nothing explains is skipped.
    One file under several ids counts once, under the first, with the boxes of all. `problems` notes all this.
    """

    kind = "detection"

    def __init__(
        self,
        images: str | Path,
        annotations: str | Path,
        *,
        unlabelled: Literal["skip", "keep"] = "skip",
        limit: int | None = None,
    ) -> None:
        """Read the annotation file; pictures are read one by one, later.

        Args:
            images: Folder of the pictures.
            annotations: The JSON file with `images`, `annotations` and `categories`.
            unlabelled: What becomes of pictures in the folder that the file does not name: left out, or kept
                without a target, to be evaluated against pseudo-labels only.
            limit: Take only the first so many images, annotated ones first.

        Raises:
            DatasetError: If folder or file is missing, or the file is not of that form, names no picture or
                no box, one id twice, or a picture outside the folder.
        """
        root, file = Path(images), Path(annotations)
        if unlabelled not in ("skip", "keep"):
            raise ArgumentError("unlabelled", expected='"skip" or "keep"', got=unlabelled)
        check_limit(limit)
        check_folder(root, "images")
        try:
            text = read_bytes(file, limit=MAX_ANNOTATION_BYTES)
            content: dict[str, Any] = parse_json(text)
            categories = sorted(content["categories"], key=_id)
            entries = sorted(content["images"], key=_id)
            boxes_of = _group(content["annotations"])
            names = [str(entry["file_name"]) for entry in entries]
            sizes = [_stated_size(entry) for entry in entries]
            ids = [_id(entry) for entry in entries]
            category_ids = [_id(category) for category in categories]
            self.categories = tuple(str(category["name"]) for category in categories)
        except OSError as error:
            raise DatasetError(f"annotations: {file} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DatasetError(
                f"annotations: {file} is not in COCO's instances form (images, annotations, categories): "
                f"{type(error).__name__} {error}."
            ) from error
        _check_ids(file, images=ids, categories=category_ids)
        _check_names(file, root, names)
        if not any(image_id in boxes_of for image_id in ids):
            raise DatasetError(
                f"annotations: {file} holds no box for any of its {len(entries)} images, so accuracy "
                "against it is undefined. Use a plain folder of images with pseudo-labels instead."
            )
        self._categories_of = {number: index for index, number in enumerate(category_ids)}
        self.paths, self.image_ids, self.problems = [], [], []
        self._targets: list[BoxTarget | None] = []
        every = [
            _Entry(image_id, name, root / name, size, boxes_of.get(image_id, []))
            for image_id, name, size in zip(ids, names, sizes, strict=True)
        ]
        once = _once_a_file(every, self.problems)[:limit]
        digest = hashlib.sha256(text)
        for mended in [*self.problems, *self._add_labelled(once, keep=unlabelled == "keep")]:
            digest.update(mended.encode())
        self._labels_sha256 = digest.hexdigest()
        if not any(self._targets) and self.problems:
            raise DatasetError(
                f"annotations: no image of {file} can be used. The first problem: {self.problems[0]}."
            )
        if unlabelled == "keep":
            files = {_real(entry.path) for entry in every}
            unnamed = [p for p in find_pictures(root, self.problems) if _real(p) not in files]
            for path in unnamed[: None if limit is None else limit - len(self.paths)]:
                self._add(path, picture_id(path, root), None)

    def _add(self, path: Path, image_id: str, target: BoxTarget | None) -> None:
        self.paths.append(path)
        self.image_ids.append(image_id)
        self._targets.append(target)

    def _add_labelled(self, entries: Sequence[_Entry], *, keep: bool) -> list[str]:
        """Add annotated images; `keep` those whose boxes cannot be placed, without a target.

        Returns:
            What was done about images whose size differs.
        """
        headers = [entry.read_header() for entry in entries]
        known = [Annotated(e.size, h, extent_of(e.boxes)) for e, h in zip(entries, headers, strict=True) if h]
        stored = stored_orientation(known)
        reader = BoxReader(self._categories_of)
        reader.problems = self.problems
        mended = []
        for entry, header in zip(entries, headers, strict=True):
            where = printable(entry.name)
            placement = None if entry.size is None else Placement(entry.size)
            if header is not None:  # a file that is missing or damaged is reported when it is read
                placement = place(Annotated(entry.size, header, extent_of(entry.boxes)), stored=stored)
            target = None if placement is None else reader.read(entry.boxes, placement, where=where)
            if placement is not None and placement.note:
                mended.append(f"{where}: {placement.note}")
            if header is not None and placement is None:
                self.problems.append(
                    f"{where}: image skipped: {describe(entry.size, header)}, which neither scale, "
                    "orientation nor swapped numbers explain; correct width and height in the annotation file"
                )
                if not keep:
                    continue
            self._add(entry.path, str(entry.image_id), target)
        return mended

    def target(self, index: int) -> BoxTarget | None:
        """True boxes of picture `index`; None for a picture that the annotation file does not name."""
        return self._targets[index]

    def settings(self) -> Settings:
        """See `PictureDataset.settings`; adds SHA-256 over the annotation file and what was mended in it."""
        return {**super().settings(), "labels_sha256": self._labels_sha256}


@dataclass(frozen=True)
class _Entry:
    """One image of an annotation file.

    Attributes:
        image_id: COCO's number.
        name: The file's name in the annotation file.
        path: The file.
        size: Annotated (height, width); None where it is missing or no positive size.
        boxes: The image's annotations.
    """

    image_id: int
    name: str
    path: Path
    size: Size | None
    boxes: list[Annotation]

    def read_header(self) -> Header | None:
        """The file's header; None where it cannot be read."""
        try:
            return read_header(self.path)
        except PictureError:
            return None


def _stated_size(entry: Annotation) -> Size | None:
    """Annotated (height, width); None where one is missing or no positive whole number."""
    try:
        size = whole_number(entry["height"]), whole_number(entry["width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def _once_a_file(entries: Sequence[_Entry], problems: list[str]) -> list[_Entry]:
    """Entries with different files; of those that name one file, the first takes the others' boxes."""
    first: dict[str, _Entry] = {}
    for entry in entries:
        real = _real(entry.path)
        kept = first.setdefault(real, entry)
        if kept is not entry:
            new = [box for box in entry.boxes if not any(_same_box(box, other) for other in kept.boxes)]
            first[real] = replace(kept, boxes=kept.boxes + new)
            problems.append(
                f"{printable(entry.name)}: image ids {kept.image_id} and {entry.image_id} name the same "
                f"file: counted once, as {kept.image_id}, with {len(new)} more boxes of {entry.image_id}"
            )
    return list(first.values())


def _real(path: Path) -> str:
    """The path without links; as it is where no file can have that name."""
    try:
        return os.path.realpath(path)
    except (OSError, ValueError):
        return str(path)


def _same_box(one: Annotation, other: Annotation) -> bool:
    return all(one.get(key) == other.get(key) for key in ("bbox", "category_id"))


def _group(annotations: list[Annotation]) -> dict[int, list[Annotation]]:
    grouped: dict[int, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        grouped[whole_number(annotation["image_id"])].append(annotation)
    return grouped


def _id(entry: Annotation) -> int:
    return whole_number(entry["id"])


def _check_ids(file: Path, **sorted_ids: list[int]) -> None:
    """Raise DatasetError where two images or two categories share an id."""
    for what, ids in sorted_ids.items():
        if twice := [one for one, other in pairwise(ids) if one == other]:
            raise DatasetError(f"annotations: {file} gives the id {twice[0]} to two {what}; make it unique.")


def _check_names(file: Path, root: Path, names: list[str]) -> None:
    """Raise DatasetError unless there are names, all of files below `root`."""
    if not names:
        raise DatasetError(f"annotations: {file} names no picture.")
    if outside := [name for name in names if not _is_below(root, name)]:
        raise DatasetError(
            f"annotations: {file} names a picture outside the folder images={root}: "
            f"{printable(outside[0])}. Give the folder that holds all of its pictures."
        )


def _is_below(root: Path, name: str) -> bool:
    """Whether the path that a file names stays inside the folder; where symbolic links lead is not asked."""
    top = os.path.abspath(root)  # noqa: PTH100  Path.resolve would follow links
    return os.path.commonpath([top, os.path.abspath(root / name)]) == top  # noqa: PTH100
