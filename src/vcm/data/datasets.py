"""The data set interface, and pictures without labels."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor
from torch.utils.data import Dataset

from vcm.data.reading import find_pictures, picture_id, read_picture
from vcm.errors import ArgumentError, DatasetError
from vcm.files import MAX_IMAGE_BYTES, open_regular, printable
from vcm.types import Sample, Settings, Target

Part = Literal["all", "train", "val"]
PARTS: tuple[Part, ...] = ("all", "train", "val")


class PictureDataset(Dataset[Sample], ABC):
    """Pictures on disk, in a fixed order, each with an id and perhaps a target.

    Attributes:
        kind: What the targets are; "pictures" where there are none.
        categories: Names that the targets' labels index; empty where there are none.
        paths: The picture files.
        image_ids: Their ids, unique, stable between runs and machines.
        problems: What is wrong with the labels and was mended or left out; one line each.
    """

    kind: ClassVar[Literal["detection", "classification", "pictures"]]
    categories: tuple[str, ...]
    paths: list[Path]
    image_ids: list[str]
    problems: list[str]

    @abstractmethod
    def target(self, index: int) -> Target | None:
        """What is true of picture `index`, or None where nobody labelled it."""

    def image(self, index: int) -> Tensor:
        """Picture `index`, (3, H, W) uint8 RGB.

        Raises:
            PictureError: If the file is missing or cannot be read as a picture.
        """
        return read_picture(self.paths[index])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Sample(self.image_ids[index], self.image(index), self.target(index))

    def __len__(self) -> int:
        return len(self.paths)

    def settings(self) -> Settings:
        """Kind, size and content of the data set as plain JSON values: SHA-256 over ids and files."""
        digest = hashlib.sha256()
        for image_id, path in zip(self.image_ids, self.paths, strict=True):
            digest.update(image_id.encode() + b"\0")
            digest.update(_sha256(path) or b"missing")  # reported when the image itself is read
        return {"kind": self.kind, "num_images": len(self), "pictures_sha256": digest.hexdigest()}


class PictureFolderDataset(PictureDataset):
    """All pictures below a folder, without labels; evaluated against pseudo-labels, or for rate and
    distortion only.
    """

    kind = "pictures"

    def __init__(self, root: str | Path, *, part: Part = "all", limit: int | None = None) -> None:
        """List the pictures.

        Args:
            root: The folder; pictures in folders below it count too.
            part: "train" or "val" for a fixed nine tenths or one tenth of them, chosen by each path's hash.
            limit: Take only this many.

        Raises:
            DatasetError: If the folder is missing or holds no picture.
        """
        root = Path(root)
        self.problems = []
        self.paths = choose(pictures_below(root, self.problems), root, part=part, limit=limit)
        self.image_ids = [picture_id(path, root) for path in self.paths]
        self.categories = ()

    def target(self, index: int) -> None:
        """None: nobody labelled these pictures."""


def _sha256(path: Path) -> bytes | None:
    """SHA-256 of an image file; None where it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path, limit=MAX_IMAGE_BYTES) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()


def pictures_below(root: Path, problems: list[str]) -> list[Path]:
    """The images below `root`.

    Args:
        root: The folder.
        problems: Takes a line for each file or folder that cannot be looked at and is skipped.

    Raises:
        DatasetError: If the folder is missing or holds no image.
    """
    check_folder(root)
    paths = find_pictures(root, problems)
    if not paths:
        raise DatasetError(f"{printable(root)}: holds no picture (.jpg, .png, .webp, …).")
    return paths


def check_folder(folder: Path, argument: str = "") -> None:
    """Raise DatasetError unless there is such a folder; `argument` names it in the message."""
    if not os.path.isdir(folder):  # noqa: PTH112  Path.is_dir raises where a path is too long
        if argument:
            raise DatasetError(f"{argument}: there is no folder {printable(folder)}.")
        raise DatasetError(f"{printable(folder)}: there is no such folder.")


def choose(paths: Sequence[Path], root: Path, *, part: Part, limit: int | None) -> list[Path]:
    """Keep one part of the pictures, then the first `limit`.

    Raises:
        ArgumentError: If `part` or `limit` is not what it may be.
        DatasetError: If nothing is left.
    """
    if part not in PARTS:
        raise ArgumentError("part", expected="one of all, train, val", got=part)
    check_limit(limit)

    def is_validation(path: Path) -> bool:
        digest = hashlib.sha256(picture_id(path, root).encode()).digest()
        return digest[0] < 256 // 10

    kept = [path for path in paths if part == "all" or is_validation(path) == (part == "val")][:limit]
    if not kept:
        raise DatasetError(f"{root}: part={part!r} of its {len(paths)} pictures is empty; use part=all.")
    return kept


def check_limit(limit: int | None) -> None:
    """Raise ArgumentError unless `limit` is None or a whole number from 1."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ArgumentError("limit", expected="a whole number from 1, or null for all", got=limit)
