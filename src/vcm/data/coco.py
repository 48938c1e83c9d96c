"""COCO instances JSON."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch

from vcm.data.boxes import BoxReader, whole_number
from vcm.data.datasets import ImageDataset, check_folder, check_limit
from vcm.data.reading import Header, find_images, read_header, relative_id
from vcm.data.sizes import Annotated, Placement, Size, describe, extent_of, place, stored_orientation
from vcm.errors import ArgumentError, DatasetError, ImageError
from vcm.files import parse_json, printable, read_bytes
from vcm.types import BoxTarget, Settings

MAX_ANNOTATION_BYTES = 2 << 30
"""Largest annotation file that is read: 2 GiB; COCO's training annotations have 0.5 GiB."""

_SAME_BOX = 0.5
"""Maximum difference in pixels between the sides of two boxes that count as equal."""

Annotation = dict[str, Any]


class COCODataset(ImageDataset):
    """Images with boxes from an annotation file in COCO's instances format.

    An image's id is its COCO id as text; an image that is not in the annotation file has its relative path as
    id.

    Annotated widths and heights are compared with the image files. Boxes are scaled if the image was resized
    uniformly, and rotated if EXIF rotates the file and the boxes are in its stored orientation. Sizes that
    are missing, zero or swapped are replaced by the file's. Images with an unexplained size are skipped. A
    file under several ids counts once, under the first id, with the boxes of all ids, each transformed by the
    size of its own id. `problems` reports all of this.
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
        """Read the annotation file; images are read later, one by one.

        Args:
            images: Folder of the images.
            annotations: JSON file with `images`, `annotations` and `categories`.
            unlabelled: Treatment of images in the folder that are not in the file: "skip" them, or "keep"
                them without a target, to be evaluated only against pseudo-labels.
            limit: Maximum number of images, annotated ones first; None for all.

        Raises:
            ArgumentError: If `unlabelled` or `limit` is invalid.
            DatasetError: If the folder or file is missing, or the file does not have this format, contains no
                images or no boxes, a duplicate id, or an image outside the folder.
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
                f"annotations: {file} is not in COCO's instances format (images, annotations, categories): "
                f"{type(error).__name__} {error}."
            ) from error
        _check_ids(file, images=ids, categories=category_ids)
        _check_names(file, root, names)
        if not any(image_id in boxes_of for image_id in ids):
            raise DatasetError(
                f"annotations: {file} contains no boxes for any of its {len(entries)} images, so accuracy is "
                "undefined. Use a plain folder of images with pseudo-labels instead."
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
            unnamed = [p for p in find_images(root, self.problems) if _real(p) not in files]
            for path in unnamed[: None if limit is None else limit - len(self.paths)]:
                self._add(path, relative_id(path, root), None)

    def _add(self, path: Path, image_id: str, target: BoxTarget | None) -> None:
        self.paths.append(path)
        self.image_ids.append(image_id)
        self._targets.append(target)

    def _add_labelled(self, files: Sequence[Sequence[_Entry]], *, keep: bool) -> list[str]:
        """Add annotated images.

        Args:
            files: Entries of each file.
            keep: Whether to keep images whose boxes cannot be placed, without a target.

        Returns:
            Messages about corrected sizes.
        """
        headers = [entries[0].read_header() for entries in files]
        known = [
            Annotated(entry.size, header, extent_of(entry.boxes))
            for entries, header in zip(files, headers, strict=True)
            if header
            for entry in entries
        ]
        stored = stored_orientation(known)
        reader = BoxReader(self._categories_of)
        reader.problems = self.problems
        mended: list[str] = []
        for entries, header in zip(files, headers, strict=True):
            read = [_read_target(entry, header, reader, mended, stored=stored) for entry in entries]
            targets = [target for target in read if target is not None]
            if targets or header is None or keep:  # a missing or damaged file is reported when it is read
                target = _merged(targets) if targets else None
                self._add(entries[0].path, str(entries[0].image_id), target)
        return mended

    def target(self, index: int) -> BoxTarget | None:
        """Return the ground-truth boxes of image `index`; None if it is not in the annotation file."""
        return self._targets[index]

    def settings(self) -> Settings:
        """See `ImageDataset.settings`. Adds the SHA-256 of the annotation file and of its corrections."""
        return {**super().settings(), "labels_sha256": self._labels_sha256}


@dataclass(frozen=True)
class _Entry:
    """One image of an annotation file.

    Attributes:
        image_id: COCO id.
        name: File name in the annotation file.
        path: Path of the file.
        size: Annotated (height, width); None if missing or not positive.
        boxes: Annotations of the image.
    """

    image_id: int
    name: str
    path: Path
    size: Size | None
    boxes: list[Annotation]

    def read_header(self) -> Header | None:
        """Read the file's header; None if it cannot be read."""
        try:
            return read_header(self.path)
        except ImageError:
            return None


def _stated_size(entry: Annotation) -> Size | None:
    """Return the annotated (height, width); None if one is missing or not a positive whole number."""
    try:
        size = whole_number(entry["height"]), whole_number(entry["width"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def _once_a_file(entries: Sequence[_Entry], problems: list[str]) -> list[list[_Entry]]:
    """Group entries by file; entries with the same file and size are merged into the first one."""
    by_file: dict[str, list[_Entry]] = {}
    for entry in entries:
        group = by_file.setdefault(_real(entry.path), [])
        like = next((index for index, other in enumerate(group) if other.size == entry.size), None)
        if like is None:
            group.append(entry)
            more = f"the boxes of {entry.image_id}, whose width and height differ"
        else:
            kept = group[like]
            new = [box for box in entry.boxes if not any(_same_box(box, other) for other in kept.boxes)]
            group[like] = replace(kept, boxes=kept.boxes + new)
            more = f"{len(new)} more boxes of {entry.image_id}"
        if (first := group[0]).image_id != entry.image_id:
            problems.append(
                f"{printable(entry.name)}: image ids {first.image_id} and {entry.image_id} name the same "
                f"file: counted once, as {first.image_id}, with {more}"
            )
    return list(by_file.values())


def _read_target(
    entry: _Entry, header: Header | None, reader: BoxReader, mended: list[str], *, stored: bool | None
) -> BoxTarget | None:
    """Return the target of one entry; None if its size is missing or unexplained.

    Args:
        entry: The entry.
        header: Header of its file; None if it cannot be read.
        reader: Collects problems.
        mended: Collects messages about corrected sizes.
        stored: Result of `stored_orientation` for the dataset.
    """
    where = printable(entry.name)
    placement = None if entry.size is None else Placement(entry.size)
    if header is not None:
        placement = place(Annotated(entry.size, header, extent_of(entry.boxes)), stored=stored)
        if placement is None:
            reader.problems.append(
                f"{where}: image skipped: {describe(entry.size, header)}, which neither scaling, rotation "
                "nor swapped numbers explain; correct width and height in the annotation file"
            )
    if placement is None:
        return None
    if placement.note:
        mended.append(f"{where}: {placement.note}")
    return reader.read(entry.boxes, placement, where=where)


def _merged(targets: Sequence[BoxTarget]) -> BoxTarget:
    """Merge targets; boxes that an earlier target also has are counted once."""
    merged = targets[0]
    for target in targets[1:]:
        apart = (target.boxes[:, None] - merged.boxes).abs().amax(dim=2)
        same = (apart < _SAME_BOX) & (target.labels[:, None] == merged.labels)
        new = ~same.any(dim=1)
        merged = BoxTarget(
            boxes=torch.cat([merged.boxes, target.boxes[new]]),
            labels=torch.cat([merged.labels, target.labels[new]]),
            is_crowd=torch.cat([merged.is_crowd, target.is_crowd[new]]),
            area=torch.cat([merged.area, target.area[new]]),
        )
    return merged


def _real(path: Path) -> str:
    """Resolve links in a path; return it unchanged if no file can have that name."""
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
    """Raise DatasetError if two images or two categories share an id."""
    for what, ids in sorted_ids.items():
        if twice := [one for one, other in pairwise(ids) if one == other]:
            raise DatasetError(f"annotations: {file} gives the id {twice[0]} to two {what}; make it unique.")


def _check_names(file: Path, root: Path, names: list[str]) -> None:
    """Raise DatasetError unless there are names, and all of them are below `root`."""
    if not names:
        raise DatasetError(f"annotations: {file} contains no images.")
    if outside := [name for name in names if not _is_below(root, name)]:
        raise DatasetError(
            f"annotations: {file} contains an image outside the folder images={root}: "
            f"{printable(outside[0])}. Use the folder that contains all of its images."
        )


def _is_below(root: Path, name: str) -> bool:
    """Return whether a path from an annotation file is inside the folder, without following links."""
    top = os.path.abspath(root)  # noqa: PTH100  Path.resolve would follow links
    return os.path.commonpath([top, os.path.abspath(root / name)]) == top  # noqa: PTH100
