"""Datasets, datamodules, and published assets.

Names are imported on first use, so that `vcm.data.assets` does not import torch.
"""

from typing import TYPE_CHECKING

from vcm.lazy_imports import lazy_names

if TYPE_CHECKING:
    from vcm.data.assets import asset_file, fetch
    from vcm.data.coco import COCODataset
    from vcm.data.datamodule import Batch, ImageDataModule
    from vcm.data.datasets import ImageDataset, ImageFolderDataset
    from vcm.data.folders import ClassFolderDataset, YOLOFolderDataset
    from vcm.data.reading import read_image

__all__ = [
    "Batch",
    "COCODataset",
    "ClassFolderDataset",
    "ImageDataModule",
    "ImageDataset",
    "ImageFolderDataset",
    "YOLOFolderDataset",
    "asset_file",
    "fetch",
    "read_image",
]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("Batch", "ImageDataModule"), "vcm.data.datamodule"),
        **dict.fromkeys(("ImageDataset", "ImageFolderDataset"), "vcm.data.datasets"),
        **dict.fromkeys(("ClassFolderDataset", "YOLOFolderDataset"), "vcm.data.folders"),
        **dict.fromkeys(("asset_file", "fetch"), "vcm.data.assets"),
        "COCODataset": "vcm.data.coco",
        "read_image": "vcm.data.reading",
    },
    former={
        "PictureDataModule": "ImageDataModule",
        "PictureDataset": "ImageDataset",
        "PictureFolderDataset": "ImageFolderDataset",
        "read_picture": "read_image",
    },
)
