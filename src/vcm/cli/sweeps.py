"""Sweeps: job folders, records and plans, under any launcher."""

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
"""Maximum length of a job folder's name before its hash, in characters."""
JOB_FILE = "job.json"
"""Record in the folder of a completed job."""
PLAN_FILE = "sweep.json"
"""Plan in the folder of a sweep."""
_MAX_RECORD_BYTES = 16 << 20


def sweep_name(overrides: Sequence[str]) -> str:
    """Return a folder name for a job, from its overrides: letters, digits and `. _ + -` only.

    Different overrides give different names: a name that had to be shortened or changed ends in a hash.

    Args:
        overrides: Overrides of the job; ["module.weight_scale=2", "seed=1"] gives
            "module.weight_scale-2_seed-1".
    """
    # Hydra needs "++" for a "+" setting that conf/ has gained; the folder must stay the same.
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
    """Result of a job.

    Attributes:
        status: Exit status: 0 done, 1 done with images or labels skipped, 2 not done, 130 interrupted.
        objective: Objective for a sweep; None if the job has none.
        outputs: Files in the job's folder that a later run can rely on.
        is_kept: Whether the job left results.
    """

    status: int
    objective: Objective | None = None
    outputs: tuple[str, ...] = ()
    is_kept: bool = True


@dataclass(frozen=True)
class JobRecord:
    """Record of one job of a sweep.

    Attributes:
        number: Index of the job in the sweep, from 0.
        overrides: Overrides of the job.
        folder: Folder with the job's results.
        status: Exit status.
        error: Error message; empty if there was none.
        objective: Objective for the sweep; None if the job has none.
        outputs: Files in the folder that a later run can rely on.
        key: Hash of all settings and of the content of the files that they name.
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
            EvaluationError: If the record is damaged.
            FileNotFoundError: If there is no record.
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
        """Write the record atomically."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n")


@dataclass(frozen=True)
class Plan:
    """Planned jobs of the sweeps in one folder.

    Attributes:
        command: "train" or "evaluate".
        jobs: Overrides of each job, by folder name.
    """

    command: str
    jobs: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Plan | None:
        """Read the plan from a sweep's folder; None if it is missing or damaged."""
        try:
            content = json.loads(read_text(folder / PLAN_FILE, limit=_MAX_RECORD_BYTES))
            jobs = {str(name): list(map(str, overrides)) for name, overrides in content["jobs"].items()}
            return cls(str(content["command"]), jobs)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


class SweepFolder(Callback):
    """Hydra callback that records a sweep's folder and its planned jobs.

    Args:
        command: "train" or "evaluate".
    """

    current: Path | None = None

    def __init__(self, command: str = "") -> None:
        self.command = command

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ANN401  Hydra's
        """Record the folder, and add the jobs to its plan."""
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
    """Return the overrides of every job that Hydra's basic sweeper will start; empty for other sweepers."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    target = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"
    if config.hydra.sweeper.get("_target_") != target:
        return []
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*params, *map(str, config.hydra.overrides.task)])
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    return [list(overrides) for overrides in batch]


def job_key(command: str, composed: DictConfig, versions: Mapping[str, str]) -> str:
    """Hash everything that a job's result depends on: settings, content of the files they name, and versions.

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
    """Create the record of the job that runs in this process."""
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
    """Return the record of a completed job with the same key whose outputs still exist, else None."""
    try:
        record = JobRecord.read(folder / JOB_FILE)
    except (FileNotFoundError, EvaluationError):
        return None
    is_done = record.status in (0, 1) and record.key == key and bool(key)
    return record if is_done and all((folder / name).is_file() for name in record.outputs) else None


def keep_record(token: str, record: JobRecord) -> None:
    """Write a job's record where the process that started the sweep looks for it.

    Args:
        token: Identifies this sweep among others in the same folder.
        record: The record; written with status 2 before the job runs, so that a killed job counts as failed.
    """
    folder = _records(Path(HydraConfig.get().sweep.dir), token)
    folder.mkdir(parents=True, exist_ok=True)
    record.write(folder / f"{record.number}.json")


def collect_records(token: str) -> list[JobRecord]:
    """Return the records of all started jobs in order, and remove their files."""
    if SweepFolder.current is None:
        return []
    folder = _records(SweepFolder.current, token)
    found = [JobRecord.read(path) for path in folder.glob("*.json")]
    shutil.rmtree(folder, ignore_errors=True)
    return sorted(found, key=lambda record: record.number)


def best_record(records: Sequence[JobRecord]) -> JobRecord | None:
    """Return the record with the best objective; None if fewer than two records have one."""
    judged = [
        record for record in records if record.objective is not None and math.isfinite(record.objective.cost)
    ]
    if len(judged) < 2:
        return None
    return min(judged, key=lambda record: record.objective.cost if record.objective else math.inf)


def _records(folder: Path, token: str) -> Path:
    return folder / f".jobs-{token}"
