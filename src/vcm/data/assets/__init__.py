"""Published weights and pictures: what there is, where it lies, and how it gets there. Imports no torch."""

from vcm.data.assets.cache import asset_file, asset_folder, cache_folder, is_present
from vcm.data.assets.catalog import CATALOG, Asset, Source, find_asset
from vcm.data.assets.fetch import fetch

__all__ = [
    "CATALOG",
    "Asset",
    "Source",
    "asset_file",
    "asset_folder",
    "cache_folder",
    "fetch",
    "find_asset",
    "is_present",
]
