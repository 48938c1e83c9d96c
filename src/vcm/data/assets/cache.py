"""Cache of downloaded assets, and verification of its content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import platformdirs

from vcm.data.assets.catalog import Asset, find_asset
from vcm.errors import AssetError
from vcm.files import file_sha256, printable, read_json

MARKER = "asset.json"
"""Written last: an asset folder without it is incomplete."""

_digests: dict[tuple[str, int, int, int, int], str] = {}
"""SHA-256 by path, size, modification time, inode and device, for this process."""


def cache_folder() -> Path:
    """Return the folder in the environment variable VCM_CACHE, or the platform's cache folder for vcm.

    Raises:
        AssetError: If the home folder is unknown.
    """
    named = os.environ.get("VCM_CACHE")
    try:
        folder = Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("vcm"))
    except RuntimeError as error:
        raise AssetError(f"The cache folder is unknown: {error}. Set VCM_CACHE or HOME.") from error
    if folder.parts[:1] == ("~",):  # unexpanded by older versions of platformdirs
        raise AssetError("The cache folder is unknown: HOME is not set. Set VCM_CACHE or HOME.")
    return folder


def asset_folder(name: str) -> Path:
    """Return the cache folder of an asset, which need not exist yet.

    Raises:
        AssetError: If there is no asset of this name.
    """
    return cache_folder() / "assets" / find_asset(name).name


def is_present(asset: Asset) -> bool:
    """Return whether an asset is complete in the cache, in the required version and unchanged."""
    return problem_of(asset) is None


def problem_of(asset: Asset) -> str | None:
    """Describe why the cached files of an asset cannot be used; None if they can.

    Every file must have the size and SHA-256 recorded at download, and files listed in the catalog the
    SHA-256 given there. A file is hashed again if its size, modification time or inode changed.
    """
    folder = asset_folder(asset.name)
    try:
        marker = read_json(folder / MARKER)
        sizes, hashes = _files(marker["files"], int), _files(marker.get("sha256", {}), str)
        fingerprint = marker.get("fingerprint")
    except FileNotFoundError:
        return f"{MARKER} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MARKER} is damaged"
    if fingerprint != asset.fingerprint():
        return "it belongs to another version of vcm"
    checked = (
        _problem_of_file(folder / file, file, sizes.get(file), asset.files.get(file, hashes.get(file)))
        for file in sorted({*sizes, *asset.files})
    )
    return next((problem for problem in checked if problem is not None), None)


def _problem_of_file(path: Path, name: str, size: int | None, sha256: str | None) -> str | None:
    """Describe what is wrong with a file of known size and SHA-256 (if known); None if it is valid."""
    try:
        found = path.stat().st_size
        if found != size:
            return f"{printable(name)} has {found:,} bytes, which differs from the downloaded size"
        if sha256 and (digest := _known_sha256(path)) != sha256:
            return f"{printable(name)} has SHA-256 {digest}, expected {sha256}"
    except FileNotFoundError:
        return f"{printable(name)} is missing"
    except OSError as error:
        return f"{printable(name)} cannot be read: {error.strerror}"
    return None


def _files(content: Any, kind: type) -> dict[str, Any]:  # noqa: ANN401  any JSON value
    """Validate a JSON object that maps files to values of a type.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(content, dict) or not all(isinstance(value, kind) for value in content.values()):
        raise ValueError("it is not an object of files")
    return content


def _known_sha256(path: Path) -> str:
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
    if key not in _digests:
        _digests[key] = file_sha256(path)
    return _digests[key]


def asset_file(name: str, file: str) -> Path:
    """Return the path of one file of a downloaded asset, after verifying the asset.

    Args:
        name: Name of the asset, such as "yolov3-tiny".
        file: Path of the file or folder in the asset, such as "yolov3-tiny.weights".

    Raises:
        AssetError: If the asset is unknown, not downloaded, modified, or has no such file.
    """
    asset, folder = find_asset(name), asset_folder(name)
    problem = problem_of(asset)
    if problem is not None and (folder / MARKER).exists():
        raise AssetError(
            f"asset {name!r} in {folder} cannot be used: {problem}. Download it again with: vcm fetch {name}"
        )
    if problem is not None:
        raise AssetError(
            f"asset {name!r} is not in the cache ({cache_folder()}). Download it with: vcm fetch {name}  "
            "(or set VCM_CACHE to a cache that contains it)."
        )
    path = folder / file
    if not path.exists():
        there = sorted(entry.name for entry in folder.iterdir() if entry.name != MARKER)
        raise AssetError(f"asset {name!r} has no file {file!r}; it has {', '.join(there)}.")
    return path
