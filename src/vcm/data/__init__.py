"""Data sets, datamodules, and published assets.

Names are loaded when first used, so that `vcm.data.assets` does not bring torch with it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vcm.deprecation import former_names

if TYPE_CHECKING:
    from vcm.data.coco import COCODataset
    from vcm.data.datamodule import Batch, ImageDataModule
    from vcm.data.datasets import ImageDataset, ImageFolderDataset
    from vcm.data.folders import ClassFolderDataset, YOLOFolderDataset
    from vcm.data.reading import read_image

_HOME = {
    "Batch": "datamodule",
    "COCODataset": "coco",
    "ClassFolderDataset": "folders",
    "ImageDataModule": "datamodule",
    "ImageDataset": "datasets",
    "ImageFolderDataset": "datasets",
    "YOLOFolderDataset": "folders",
    "read_image": "reading",
}

__all__ = [
    "Batch",
    "COCODataset",
    "ClassFolderDataset",
    "ImageDataModule",
    "ImageDataset",
    "ImageFolderDataset",
    "YOLOFolderDataset",
    "read_image",
]


_former = former_names(
    __name__,
    {
        "PictureDataModule": "ImageDataModule",
        "PictureDataset": "ImageDataset",
        "PictureFolderDataset": "ImageFolderDataset",
        "read_picture": "read_image",
    },
)


def __getattr__(name: str) -> Any:  # noqa: ANN401  what a module holds
    if name not in _HOME:
        return _former(name)
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
