"""Provenance of results: versions, machine, time."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "vcm", "torch", "torchvision", "torchmetrics", "lightning", "compressai", "pycocotools", "bjontegaard",
    "pytorch-msssim", "numpy", "pillow", "av", "timm", "pillow-jxl-plugin",
)  # fmt: skip

DECIDING_PACKAGES = ("vcm", "torch", "torchvision", "pillow", "timm", "pytorch-msssim")
"""Packages that read images, run tasks or compute metrics: another version of one makes records stale."""

RECORDS_SINCE = "0.1.0"
"""First vcm version with equivalent records; raise it when images are read or measured differently."""


def deciding_versions() -> dict[str, str]:
    """Return the versions that records depend on; that of vcm is `RECORDS_SINCE`."""
    found = package_versions()
    return {
        name: RECORDS_SINCE if name == "vcm" else found[name] for name in DECIDING_PACKAGES if name in found
    }


def now() -> str:
    """Return the present UTC time in ISO 8601 format, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def provenance(device: torch.device, workers: int) -> dict[str, Any]:
    """Return command, versions, machine and threads as plain JSON values."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "num_cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch_threads": torch.get_num_threads(),
        "codec_threads": workers,
        "packages": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages used in an evaluation."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def processor_name() -> str:
    """Return the processor model, as far as the system reports it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()
