"""Where fetched assets lie, and whether they are all there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import platformdirs

from vcm.data.assets.catalog import Asset, find_asset
from vcm.errors import AssetError

MARKER = "asset.json"
"""Written last: an asset's folder without it is not whole."""


def cache_folder() -> Path:
    """The folder named by the environment variable VCM_CACHE, else the platform's cache folder for vcm."""
    named = os.environ.get("VCM_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("vcm"))


def asset_folder(name: str) -> Path:
    """Where the files of asset `name` lie, or will lie once fetched.

    Raises:
        AssetError: If no asset has that name.
    """
    return cache_folder() / "assets" / find_asset(name).name


def is_present(asset: Asset) -> bool:
    """Whether every file of `asset`, in the version wanted here, is in the cache, each of its size."""
    folder = asset_folder(asset.name)
    try:
        marker = json.loads((folder / MARKER).read_text())
    except (OSError, ValueError):
        return False
    if marker.get("fingerprint") != asset.fingerprint():
        return False
    files: dict[str, int] = marker["files"]
    try:
        return all((folder / file).stat().st_size == size for file, size in files.items())
    except OSError:
        return False


def asset_file(name: str, file: str) -> Path:
    """The path of one file of a fetched asset.

    Args:
        name: The asset, such as "yolov3-tiny".
        file: The file's or folder's path inside the asset, such as "yolov3-tiny.weights".

    Raises:
        AssetError: If the asset is unknown, not fetched yet, or has no such file.
    """
    asset = find_asset(name)
    if not is_present(asset):
        raise AssetError(
            f"asset {name!r} is not in the cache ({cache_folder()}). Fetch it with: vcm fetch {name}  "
            "(or point VCM_CACHE at the cache that holds it)."
        )
    path = asset_folder(name) / file
    if not path.exists():
        there = sorted(entry.name for entry in asset_folder(name).iterdir() if entry.name != MARKER)
        raise AssetError(f"asset {name!r} has no file {file!r}; it has {', '.join(there)}.")
    return path
