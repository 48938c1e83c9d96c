"""`vcm fetch`: download published weights and images. Does not import torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vcm.data.assets import CATALOG, asset_folder, cache_folder, fetch, find_asset, is_present, problem_of
from vcm.data.assets.cache import MARKER


def run(arguments: Sequence[str]) -> int:
    """Download the named assets, or list all assets."""
    parser = argparse.ArgumentParser(
        prog="vcm fetch",
        description="Download published weights and images into the cache and verify their SHA-256. Assets "
        "that are already there are not downloaded again.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="assets to download; see --list")
    parser.add_argument(
        "--list", action="store_true", help="show name, download size, licence and presence of every asset"
    )
    known = parser.parse_args(arguments)
    if known.list:
        _print_list()
        return 0
    if not known.names:
        parser.error("give the name of an asset, or use --list")
    assets = [find_asset(name) for name in known.names]  # report a wrong name before any download
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        for asset in assets:
            problem = problem_of(asset)
            if problem is not None and (asset_folder(asset.name) / MARKER).exists():
                text = f"{asset.name}: downloading again, because the cached copy is not usable: {problem}"
                bars.console.print(text, highlight=False, markup=False)
            folder = fetch(asset.name, progress=show)
            done = "already in" if problem is None else "downloaded to"
            bars.console.print(f"{asset.name}: {done} {folder}", highlight=False, markup=False)
    return 0


def _print_list() -> None:
    print(f"cache: {cache_folder()}  (set the environment variable VCM_CACHE to change it)")
    width = max(len(asset.name) for asset in CATALOG)
    for asset in CATALOG:
        here = "present" if is_present(asset) else "absent "
        print(f"{asset.name:<{width}}  {asset.num_bytes / 1e6:4.0f} MB  {here}  {asset.title}")
        print(f"{'':<{width}}                    licence: {asset.licence}")
