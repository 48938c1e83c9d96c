"""Sweeps: a short folder name for each job, and a record of how each ended, under any launcher."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from vcm.files import read_text, write_text

MAX_NAME = 64
"""Longest name of a job's folder before its hash, in characters."""


def sweep_name(overrides: Sequence[str]) -> str:
    """Name a job's folder by its overrides: letters, digits and `. _ + -` only.

    Different overrides give different names: one that had to be shortened or changed ends in a hash.

    Args:
        overrides: Such as ["module.weight_scale=2", "seed=1"], which gives "module.weight_scale-2_seed-1".
    """
    # "++" is how Hydra is given a "+" of a setting that conf/ has gained: the folder stays the same.
    overrides = [re.sub(r"^\++", "+", str(override)) for override in overrides]
    parts = [override.lstrip("+").partition("=") for override in overrides]
    plain = "_".join(f"{key}-{value}" if value else key for key, _, value in parts)
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", plain)
    if len(name) > MAX_NAME:
        short = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, _, value in parts)
        name = re.sub(r"[^A-Za-z0-9._+-]+", "_", short)[:MAX_NAME]
    if name == plain and name.strip("."):
        return name
    digest = hashlib.sha256("\0".join(overrides).encode(errors="backslashreplace")).hexdigest()
    return f"{name.strip('.')}-{digest[:8]}"


@dataclass(frozen=True)
class JobRecord:
    """How one job of a sweep ended.

    Attributes:
        number: Its place in the sweep, from 0.
        overrides: What it was started with.
        folder: Where its results are.
        status: Its exit status.
        error: What went wrong; empty for nothing.
    """

    number: int
    overrides: tuple[str, ...]
    folder: str
    status: int
    error: str = ""


class SweepFolder(Callback):
    """Hydra callback that notes the folder of a sweep in the process that starts the jobs."""

    current: Path | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ANN401  Hydra's
        """Note the folder."""
        del kwargs
        type(self).current = Path(config.hydra.sweep.dir)


def record_job(token: str, status: int, error: str = "") -> None:
    """Write the record of the job that runs in this process.

    Args:
        token: Tells this sweep's records from another's in the same folder.
        status: Its exit status; 2 while it runs, so that a killed job counts as failed.
        error: What went wrong.
    """
    hydra = HydraConfig.get()
    overrides = tuple(map(str, hydra.overrides.task))
    record = JobRecord(int(hydra.job.num), overrides, str(hydra.runtime.output_dir), status, error)
    folder = _records(Path(hydra.sweep.dir), token)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{record.number}.json", json.dumps(asdict(record)))


def collect_records(token: str) -> list[JobRecord]:
    """The records of all jobs that were started, in order; removes the files."""
    if SweepFolder.current is None:
        return []
    folder = _records(SweepFolder.current, token)
    found = [JobRecord(**json.loads(read_text(path))) for path in folder.glob("*.json")]
    shutil.rmtree(folder, ignore_errors=True)
    return sorted(found, key=lambda record: record.number)


def _records(folder: Path, token: str) -> Path:
    return folder / f".jobs-{token}"
