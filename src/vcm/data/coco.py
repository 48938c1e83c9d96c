"""COCO's instances JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from vcm.data.boxes import BoxReader, whole_number
from vcm.data.datasets import PictureDataset, check_limit
from vcm.data.reading import find_pictures, picture_id, printable
from vcm.errors import ArgumentError, DatasetError
from vcm.types import BoxTarget, Settings


class COCODataset(PictureDataset):
    """Pictures with boxes from an annotation file in COCO's instances form.

    An image id is COCO's own number as text; a picture outside the annotation file goes by its file name.
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
            limit: Take only the first so many pictures, labelled ones first.

        Raises:
            DatasetError: If folder or file is missing, or the file is not of that form, names no picture or
                no box, one id twice, or a picture outside the folder.
        """
        root, file = Path(images), Path(annotations)
        if unlabelled not in ("skip", "keep"):
            raise ArgumentError("unlabelled", expected='"skip" or "keep"', got=unlabelled)
        check_limit(limit)
        if not root.is_dir():
            raise DatasetError(f"images: there is no folder {root}.")
        try:
            text = file.read_bytes()
            content: dict[str, Any] = json.loads(text)
            categories = sorted(content["categories"], key=_id)
            entries = sorted(content["images"], key=_id)
            boxes_of = _group(content["annotations"])
            names = [str(entry["file_name"]) for entry in entries]
            sizes = [(int(entry["height"]), int(entry["width"])) for entry in entries]
            ids = [_id(entry) for entry in entries]
            category_ids = [_id(category) for category in categories]
            self.categories = tuple(str(category["name"]) for category in categories)
        except OSError as error:
            raise DatasetError(f"annotations: {file} cannot be read: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DatasetError(
                f"annotations: {file} is not in COCO's instances form (images, annotations, categories): "
                f"{type(error).__name__} {error}."
            ) from error
        _check_ids(file, images=ids, categories=category_ids)
        _check_names(file, root, names)
        if not any(image_id in boxes_of for image_id in ids):
            raise DatasetError(
                f"annotations: {file} holds no box for any of its {len(entries)} pictures, so accuracy "
                "against it is undefined. Use a plain folder of pictures with pseudo-labels instead."
            )
        self._labels_sha256 = hashlib.sha256(text).hexdigest()
        self._categories_of = {number: index for index, number in enumerate(category_ids)}
        reader = BoxReader(self._categories_of)
        self._targets: list[BoxTarget | None] = []
        self.paths, self.image_ids = [], []
        for image_id, name, size in zip(ids, names, sizes, strict=True):
            self.paths.append(root / name)
            self.image_ids.append(str(image_id))
            self._targets.append(reader.read(boxes_of.get(image_id, []), size, where=printable(name)))
        if unlabelled == "keep":
            named = {root / name for name in names}
            for path in find_pictures(root):
                if path not in named:
                    self.paths.append(path)
                    self.image_ids.append(picture_id(path, root))
                    self._targets.append(None)
        for sequence in (self.paths, self.image_ids, self._targets):
            del sequence[limit if limit is not None else len(sequence) :]
        self.problems = reader.problems

    def target(self, index: int) -> BoxTarget | None:
        """True boxes of picture `index`; None for a picture that the annotation file does not name."""
        return self._targets[index]

    def settings(self) -> Settings:
        """See `PictureDataset.settings`; adds the annotation file's SHA-256."""
        return {**super().settings(), "labels_sha256": self._labels_sha256}


def _group(annotations: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    grouped: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in annotations:
        grouped[whole_number(annotation["image_id"])].append(annotation)
    return grouped


def _id(entry: dict[str, Any]) -> int:
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
