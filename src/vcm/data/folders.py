"""Folder datasets: Darknet labels, and one folder per class."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vcm.categories import read_names
from vcm.data.boxes import BoxReader
from vcm.data.datasets import ImageDataset, Part, check_folder, choose, images_below
from vcm.data.reading import image_size, relative_id
from vcm.data.sizes import Placement
from vcm.errors import DatasetError, ImageError
from vcm.files import MAX_TEXT_BYTES, printable, read_bytes
from vcm.types import BoxTarget, ClassTarget, Settings


class YOLOFolderDataset(ImageDataset):
    """Images with Darknet label files: for `images/a/b.jpg`, `labels/a/b.txt` with one box per line.

    A line contains class, centre x, centre y, width and height, the last four as fractions of the image size.
    A line with a class and three or more corners (x, y) is a polygon, as in segmentation labels; its bounding
    box is used. An image without a label file has no target; an empty label file means that nothing is in the
    image.
    """

    kind = "detection"

    def __init__(
        self,
        images: str | Path,
        labels: str | Path,
        names: str | Path,
        *,
        part: Part = "all",
        limit: int | None = None,
    ) -> None:
        """List the images and read their labels.

        Args:
            images: Folder of the images.
            labels: Folder of the label files, with the same structure as `images`.
            names: File with one category name per line.
            part: "train" or "val" for a fixed split of nine tenths and one tenth of the images.
            limit: Maximum number of images; None for all.

        Raises:
            ArgumentError: If `names` cannot be read or is empty.
            DatasetError: If a folder is missing, or no image has a readable label file.
        """
        root, label_root = Path(images), Path(labels)
        check_folder(label_root, "labels")
        self.categories = read_names(names)
        reader = BoxReader({index: index for index in range(len(self.categories))})
        self.problems = reader.problems
        self.paths = choose(images_below(root, self.problems), root, part=part, limit=limit)
        self.image_ids = [relative_id(path, root) for path in self.paths]
        digest = hashlib.sha256()
        self._targets: list[BoxTarget | None] = []
        for image_id, path in zip(self.image_ids, self.paths, strict=True):
            file = label_root / path.relative_to(root).with_suffix(".txt")
            text = self._read_label(file, image_id)
            digest.update(f"{image_id}\0{text}\0".encode())
            self._targets.append(None if text is None else self._read(reader, text, path, image_id))
        if all(target is None for target in self._targets):
            raise DatasetError(
                f"labels: {label_root} has no label file for any of the {len(self.paths)} images in "
                f"{root}; expected {PurePosixPath(self.image_ids[0]).with_suffix('.txt')} and so on."
            )
        self._labels_sha256 = digest.hexdigest()

    def _read_label(self, file: Path, image_id: str) -> str | None:
        """Read a label file, with invalid UTF-8 replaced; None if it is missing or unreadable."""
        try:
            return read_bytes(file, limit=MAX_TEXT_BYTES).decode("utf-8-sig", errors="replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ENOTDIR:
                self.problems.append(f"{image_id}: its label file is skipped: {error.strerror}")
            return None

    def _read(self, reader: BoxReader, text: str, path: Path, image_id: str) -> BoxTarget | None:
        try:
            height, width = image_size(path)
        except ImageError:
            return None  # reported when the image is read
        annotations: list[dict[str, object]] = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                category, *values = (float(value) for value in line.split())
                x, y, w, h = _box(values)
            except ValueError:
                self.problems.append(
                    f"{image_id}: label line {number} skipped: {line.strip()[:60]!r} is neither a box "
                    "(5 numbers) nor a polygon (7 or more numbers: a class, then x and y of each corner)"
                )
                continue
            box = [x * width, y * height, w * width, h * height]
            annotations.append({"bbox": box, "category_id": category})
        return reader.read(annotations, Placement((height, width)), where=image_id)

    def target(self, index: int) -> BoxTarget | None:
        """Return the ground-truth boxes of image `index`; None if it has no label file."""
        return self._targets[index]

    def settings(self) -> Settings:
        """See `ImageDataset.settings`. Adds the category names and the SHA-256 of the label files."""
        return {
            **super().settings(),
            "labels_sha256": self._labels_sha256,
            "categories": list(self.categories),
        }


def _box(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Return (left, top, width, height) of a box, or of a polygon's bounding box, as fractions of the image.

    Raises:
        ValueError: If the values are neither a box (4 numbers) nor a polygon (an even number of at least 6).
    """
    if len(values) == 4:
        x, y, w, h = values
        return x - w / 2, y - h / 2, w, h
    if len(values) < 6 or len(values) % 2:
        raise ValueError("neither a box nor a polygon")
    left, top = min(values[::2]), min(values[1::2])
    return left, top, max(values[::2]) - left, max(values[1::2]) - top


class ClassFolderDataset(ImageDataset):
    """Images in one folder per class, as is usual for ImageNet: `root/CLASS/…/image.jpg`."""

    kind = "classification"

    def __init__(
        self,
        root: str | Path,
        *,
        names: str | Path | None = None,
        part: Part = "all",
        limit: int | None = None,
    ) -> None:
        """List the images.

        Args:
            root: Folder of the class folders.
            names: File with one category name per line, for the class folders in sorted order (for ImageNet's
                n01440764 and so on); without it, the folder names are the category names.
            part: "train" or "val" for a fixed split of nine tenths and one tenth of the images.
            limit: Maximum number of images; None for all.

        Raises:
            ArgumentError: If `names` cannot be read or is empty.
            DatasetError: If the folder is missing, has no class folders or no images, or the number of names
                differs from the number of class folders.
        """
        root = Path(root)
        self.problems = []
        every = images_below(root, self.problems)
        folders = sorted(
            entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )
        if not folders:
            raise DatasetError(f"{root}: contains no class folders; expected {root}/CLASS/image.jpg.")
        stray = [path.name for path in every if path.parent == root]
        self.categories = tuple(map(printable, folders)) if names is None else read_names(names)
        if len(self.categories) != len(folders):
            raise DatasetError(
                f"names: {names} has {len(self.categories)} names, and {root} has {len(folders)} class "
                "folders; the numbers must be equal, in the same order."
            )
        inside = [path for path in every if path.parent != root]
        if not inside:
            raise DatasetError(f"{root}: its class folders contain no images.")
        self.paths = choose(inside, root, part=part, limit=limit)
        self.image_ids = [relative_id(path, root) for path in self.paths]
        self._labels = [folders.index(path.relative_to(root).parts[0]) for path in self.paths]
        self.problems += [f"{printable(name)}: skipped: it is not in a class folder" for name in stray]

    def target(self, index: int) -> ClassTarget:
        """Return the class of image `index`."""
        return ClassTarget(self._labels[index])

    def settings(self) -> Settings:
        """See `ImageDataset.settings`. Adds the category names."""
        return {**super().settings(), "categories": list(self.categories)}
