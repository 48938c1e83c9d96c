"""Data sets, datamodules, and published assets.

Names are loaded when first used, so that `vcm.data.assets` does not bring torch with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcm.data.coco import COCODataset
    from vcm.data.datamodule import Batch, PictureDataModule
    from vcm.data.datasets import PictureDataset, PictureFolderDataset
    from vcm.data.folders import ClassFolderDataset, YOLOFolderDataset
    from vcm.data.reading import read_picture

_HOME = {
    "Batch": "datamodule",
    "COCODataset": "coco",
    "ClassFolderDataset": "folders",
    "PictureDataModule": "datamodule",
    "PictureDataset": "datasets",
    "PictureFolderDataset": "datasets",
    "YOLOFolderDataset": "folders",
    "read_picture": "reading",
}

__all__ = [
    "Batch",
    "COCODataset",
    "ClassFolderDataset",
    "PictureDataModule",
    "PictureDataset",
    "PictureFolderDataset",
    "YOLOFolderDataset",
    "read_picture",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  what a module holds
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
