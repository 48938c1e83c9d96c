"""Dataset interface, and datasets without labels."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor
from torch.utils.data import Dataset

from vcm.data.reading import find_images, read_image, relative_id
from vcm.errors import ArgumentError, DatasetError
from vcm.files import MAX_IMAGE_BYTES, open_regular, printable
from vcm.types import Sample, Settings, Target

Part = Literal["all", "train", "val"]
PARTS: tuple[Part, ...] = ("all", "train", "val")


class ImageDataset(Dataset[Sample], ABC):
    """Images on disk in a fixed order, with ids and optional targets.

    Attributes:
        kind: Kind of targets; "images" if there are none.
        categories: Category names, indexed by the targets' labels; empty if there are none.
        paths: Image files.
        image_ids: Ids of the images; unique, and stable between runs and machines.
        problems: Labels that were corrected or skipped, one message each.
    """

    kind: ClassVar[Literal["detection", "classification", "images"]]
    categories: tuple[str, ...]
    paths: list[Path]
    image_ids: list[str]
    problems: list[str]

    @abstractmethod
    def target(self, index: int) -> Target | None:
        """Return the ground truth of image `index`; None if it is unlabelled."""

    def image(self, index: int) -> Tensor:
        """Read image `index`, (3, H, W) uint8 RGB.

        Raises:
            ImageError: If the file is missing or cannot be read as an image.
        """
        return read_image(self.paths[index])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Sample(self.image_ids[index], self.image(index), self.target(index))

    def __len__(self) -> int:
        return len(self.paths)

    def settings(self) -> Settings:
        """Return kind, size and content (SHA-256 of ids and files) of the dataset as plain JSON values."""
        digest = hashlib.sha256()
        for image_id, path in zip(self.image_ids, self.paths, strict=True):
            digest.update(image_id.encode() + b"\0")
            digest.update(_sha256(path) or b"missing")  # reported when the image is read
        # These names of vcm 0.1 are part of the keys of its records.
        kind = "pictures" if self.kind == "images" else self.kind
        return {"kind": kind, "num_images": len(self), "pictures_sha256": digest.hexdigest()}


class ImageFolderDataset(ImageDataset):
    """All images below a folder, without labels; evaluated against pseudo-labels."""

    kind = "images"

    def __init__(self, root: str | Path, *, part: Part = "all", limit: int | None = None) -> None:
        """List the images.

        Args:
            root: The folder, searched recursively.
            part: "train" or "val" for a fixed split of nine tenths and one tenth by the hash of the path.
            limit: Maximum number of images; None for all.

        Raises:
            DatasetError: If the folder is missing or contains no images.
        """
        root = Path(root)
        self.problems = []
        self.paths = choose(images_below(root, self.problems), root, part=part, limit=limit)
        self.image_ids = [relative_id(path, root) for path in self.paths]
        self.categories = ()

    def target(self, index: int) -> None:
        """Return None: the images have no labels."""


def _sha256(path: Path) -> bytes | None:
    """Return the SHA-256 of an image file; None if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open_regular(path, limit=MAX_IMAGE_BYTES) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()


def images_below(root: Path, problems: list[str]) -> list[Path]:
    """Find all images below `root`.

    Args:
        root: The folder.
        problems: Gets a message for each unreadable file or folder, which is skipped.

    Raises:
        DatasetError: If the folder is missing or contains no images.
    """
    check_folder(root)
    paths = find_images(root, problems)
    if not paths:
        raise DatasetError(f"{printable(root)}: contains no images (.jpg, .png, .webp, …).")
    return paths


def check_folder(folder: Path, argument: str = "") -> None:
    """Raise DatasetError if a folder does not exist; `argument` names it in the message."""
    if not os.path.isdir(folder):  # noqa: PTH112  Path.is_dir raises if a path is too long
        if argument:
            raise DatasetError(f"{argument}: there is no folder {printable(folder)}.")
        raise DatasetError(f"{printable(folder)}: there is no such folder.")


def choose(paths: Sequence[Path], root: Path, *, part: Part, limit: int | None) -> list[Path]:
    """Select one part of the images, then the first `limit` of it.

    Raises:
        ArgumentError: If `part` or `limit` is invalid.
        DatasetError: If no images are left.
    """
    if part not in PARTS:
        raise ArgumentError("part", expected="one of all, train, val", got=part)
    check_limit(limit)

    def is_validation(path: Path) -> bool:
        digest = hashlib.sha256(relative_id(path, root).encode()).digest()
        return digest[0] < 256 // 10

    kept = [path for path in paths if part == "all" or is_validation(path) == (part == "val")][:limit]
    if not kept:
        raise DatasetError(f"{root}: part={part!r} of its {len(paths)} images is empty. Use part=all.")
    return kept


def check_limit(limit: int | None) -> None:
    """Raise ArgumentError unless `limit` is None or a whole number of at least 1."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ArgumentError("limit", expected="a whole number of at least 1, or null for all", got=limit)
