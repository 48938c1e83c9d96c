"""Published weights and images: catalog, cache and download. Does not import torch."""

from vcm.data.assets.cache import asset_file, asset_folder, cache_folder, is_present, problem_of
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
    "problem_of",
]
