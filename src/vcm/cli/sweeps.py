"""Sweeps: job folders, records and plan, under any launcher."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from vcm.cli.objectives import Objective
from vcm.cli.resume import content_of, flat, is_input
from vcm.errors import EvaluationError
from vcm.files import read_text, write_text

MAX_NAME = 64
"""Longest name of a job's folder before its hash, in characters."""
JOB_FILE = "job.json"
"""In the folder of a job that has ended."""
PLAN_FILE = "sweep.json"
"""In the folder of a sweep."""
_MAX_RECORD_BYTES = 16 << 20


def sweep_name(overrides: Sequence[str]) -> str:
    """Name a job's folder by its overrides: letters, digits and `. _ + -` only.

    Different overrides give different names: one that had to be shortened or changed ends in a hash.

    Args:
        overrides: Such as ["module.weight_scale=2", "seed=1"], which gives "module.weight_scale-2_seed-1".
    """
    # "++" is how Hydra is given a "+" of a setting that conf/ has gained: the folder stays the same.
    overrides = [re.sub(r"^\++", "+", str(override)) for override in overrides]
    overrides = [re.sub(r"^(\+?)experiment/\w+=", r"\1experiment=", override) for override in overrides]
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
class JobResult:
    """How a job ended.

    Attributes:
        status: Exit status: 0 done, 1 done with images or labels left out, 2 not done, 130 interrupted.
        objective: What a sweep may optimize; None if the job has none.
        outputs: Files in the job's folder that a later run can rely on.
        is_kept: Whether the job left results.
    """

    status: int
    objective: Objective | None = None
    outputs: tuple[str, ...] = ()
    is_kept: bool = True


@dataclass(frozen=True)
class JobRecord:
    """How one job of a sweep ended.

    Attributes:
        number: Its place in the sweep, from 0.
        overrides: What it was started with.
        folder: Where its results are.
        status: Its exit status.
        error: What went wrong; empty for nothing.
        objective: What a sweep may optimize.
        outputs: Files in its folder that a later run can rely on.
        key: Hash of all settings and of the content of the files they name.
    """

    number: int
    overrides: tuple[str, ...]
    folder: str
    status: int
    error: str = ""
    objective: Objective | None = None
    outputs: tuple[str, ...] = ()
    key: str = ""

    @classmethod
    def read(cls, path: Path) -> JobRecord:
        """Read a record.

        Raises:
            EvaluationError: If it is damaged.
            FileNotFoundError: If there is none.
        """
        try:
            content = json.loads(read_text(path, limit=_MAX_RECORD_BYTES))
            objective = content.pop("objective", None)
            record = cls(**content, objective=None if objective is None else Objective(**objective))
            lists = {name: tuple(map(str, getattr(record, name))) for name in ("overrides", "outputs")}
            fields = {**asdict(record), **lists, "objective": record.objective, "folder": str(record.folder)}
            return cls(**{**fields, "status": int(record.status), "error": str(record.error)})
        except FileNotFoundError:
            raise
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise EvaluationError(f"{path} is damaged: {error}. Remove it to run the job again.") from error

    def write(self, path: Path) -> None:
        """Write the record in one move."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")


@dataclass(frozen=True)
class Plan:
    """The jobs that sweeps into one folder were to run.

    Attributes:
        command: "train" or "evaluate".
        jobs: The overrides of each job, by the name of its folder.
    """

    command: str
    jobs: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Plan | None:
        """Read the plan of a sweep's folder; None if there is none or it is damaged."""
        try:
            content = json.loads(read_text(folder / PLAN_FILE, limit=_MAX_RECORD_BYTES))
            jobs = {str(name): list(map(str, overrides)) for name, overrides in content["jobs"].items()}
            return cls(str(content["command"]), jobs)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


class SweepFolder(Callback):
    """Hydra callback that notes a sweep's folder and jobs in the process that starts them.

    Args:
        command: "train" or "evaluate".
    """

    current: Path | None = None

    def __init__(self, command: str = "") -> None:
        self.command = command

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ANN401  Hydra's
        """Note the folder, and add the jobs to the plan there."""
        del kwargs
        folder = Path(config.hydra.sweep.dir)
        type(self).current = folder
        if not self.command:
            return
        earlier = Plan.read(folder)
        jobs = {sweep_name(overrides): overrides for overrides in planned_jobs(config)}
        folder.mkdir(parents=True, exist_ok=True)
        plan = Plan(self.command, {**(earlier.jobs if earlier else {}), **jobs})
        write_text(folder / PLAN_FILE, json.dumps(asdict(plan), indent=1) + "\n")


def planned_jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of every job that Hydra's own sweeper will start; none under another sweeper."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    target = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"
    if config.hydra.sweeper.get("_target_") != target:
        return []
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*params, *map(str, config.hydra.overrides.task)])
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    return [list(overrides) for overrides in batch]


def job_key(command: str, composed: DictConfig, versions: Mapping[str, str]) -> str:
    """Hash what a job's result depends on: its settings, the files that they name, and versions.

    Returns:
        SHA-256 in hexadecimal.
    """
    settings = flat(OmegaConf.to_container(composed, resolve=True))
    contents = {
        name: content
        for name, value in settings.items()
        if is_input(name) and (content := content_of(value)) is not None
    }
    text = json.dumps([command, settings, contents, dict(versions)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()


def job_record(status: int, error: str = "", *, result: JobResult | None = None, key: str = "") -> JobRecord:
    """The record of the job that runs in this process."""
    hydra = HydraConfig.get()
    return JobRecord(
        int(hydra.job.num),
        tuple(map(str, hydra.overrides.task)),
        str(hydra.runtime.output_dir),
        status,
        error,
        objective=None if result is None else result.objective,
        outputs=() if result is None else result.outputs,
        key=key,
    )


def finished_job(folder: Path, key: str) -> JobRecord | None:
    """The record of a job that was done in a folder with the same settings, and whose outputs are there."""
    try:
        record = JobRecord.read(folder / JOB_FILE)
    except (FileNotFoundError, EvaluationError):
        return None
    is_done = record.status in (0, 1) and record.key == key and bool(key)
    return record if is_done and all((folder / name).is_file() for name in record.outputs) else None


def keep_record(token: str, record: JobRecord) -> None:
    """Write a job's record where the process that started the sweep finds it.

    Args:
        token: Tells this sweep's records from another's in the same folder.
        record: Of status 2 while the job runs, so that a killed job counts as failed.
    """
    folder = _records(Path(HydraConfig.get().sweep.dir), token)
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder / f"{record.number}.json")


def collect_records(token: str) -> list[JobRecord]:
    """The records of all jobs that were started, in order; removes the files."""
    if SweepFolder.current is None:
        return []
    folder = _records(SweepFolder.current, token)
    found = [JobRecord.read(path) for path in folder.glob("*.json")]
    shutil.rmtree(folder, ignore_errors=True)
    return sorted(found, key=lambda record: record.number)


def best_record(records: Sequence[JobRecord]) -> JobRecord | None:
    """The job with the best objective; None unless two or more have one."""
    judged = [
        record for record in records if record.objective is not None and math.isfinite(record.objective.cost)
    ]
    if len(judged) < 2:
        return None
    return min(judged, key=lambda record: record.objective.cost if record.objective else math.inf)


def _records(folder: Path, token: str) -> Path:
    return folder / f".jobs-{token}"
