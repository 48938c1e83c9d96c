"""Run a job composed by Hydra, or a sweep of jobs."""

from __future__ import annotations

import os
import secrets
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vcm.cli.errors import user_message
from vcm.cli.options import register_resolvers
from vcm.cli.overrides import current_overrides, current_settings
from vcm.cli.sweeps import (
    JOB_FILE,
    JobRecord,
    JobResult,
    SweepFolder,
    best_record,
    collect_records,
    finished_job,
    job_key,
    job_record,
    keep_record,
    sweep_name,
)
from vcm.errors import VCMError
from vcm.files import printable

_INTERRUPTED = 130


def run_job(
    command: str,
    arguments: Sequence[str],
    job: Callable[[DictConfig], JobResult],
    versions: Mapping[str, str] | None = None,
) -> int:
    """Compose conf/<command>.yaml with the arguments and run the job, or one job per combination of a sweep.

    A job of a sweep that was completed earlier with the same settings and `versions` is not run again. Errors
    that the user can fix are printed without a traceback, unless HYDRA_FULL_ERROR=1. A failed job does not
    stop the rest of its sweep; all failed jobs are listed at the end, under every launcher.

    Returns:
        The worst exit status of all jobs; 2 for an error that the user can fix.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    show_tracebacks = before == "1"
    started_as = sys.argv
    token = secrets.token_hex(4)
    statuses: list[int] = []

    @hydra.main(version_base="1.3", config_path="pkg://vcm.conf", config_name=command)
    def main(composed: DictConfig) -> float | None:
        composed = _current(command, composed)
        sys.argv = [started_as[0], command, *arguments]  # Lightning starts processes for more devices with it
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            return _run_swept(command, token, composed, job, versions or {})
        try:
            statuses.append(job(composed).status)
        except Exception as error:  # caught here, because Hydra would add a line of its own
            cause = user_message(error, command)
            if cause is None or show_tracebacks:
                raise
            _print_error(command, cause)
            statuses.append(2)
        return None

    register_resolvers()
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    # Earlier versions needed a "+" for trainer settings that conf/ now has; Hydra would reject it there.
    try:
        arguments = current_overrides(command, arguments)
    except VCMError as error:
        _print_error(command, str(error))
        return 2
    arguments = [f"+{a}" if a.startswith("+trainer.") else a for a in arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints its errors itself and exits with 1
    sys.argv = [f"vcm {command}", *arguments]
    SweepFolder.current = None
    try:
        main()
    except Exception as error:
        cause = user_message(error, command)
        failed = _tell_records(command, collect_records(token), statuses)
        if show_tracebacks or (cause is None and not failed):
            raise
        if cause is not None and not failed:  # a failed job has printed it already
            _print_error(command, cause)
        statuses.append(2)
    except KeyboardInterrupt:
        _tell_records(command, collect_records(token), statuses)
        raise
    else:
        _tell_records(command, collect_records(token), statuses)
    finally:
        sys.argv = started_as
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
    return max(statuses, default=0)


def _current(command: str, composed: DictConfig) -> DictConfig:
    """Give settings with former names their present ones, with a note for each."""
    moved: list[str] = []
    settings = OmegaConf.to_container(composed)
    assert isinstance(settings, dict)
    renamed = current_settings({str(key): value for key, value in settings.items()}, moved)
    if not moved:
        return composed
    for note in moved:
        print(f"vcm {command}: note: {note}.", file=sys.stderr)
    current = OmegaConf.create(renamed)
    OmegaConf.set_struct(current, True)
    return current


def _run_swept(
    command: str,
    token: str,
    composed: DictConfig,
    job: Callable[[DictConfig], JobResult],
    versions: Mapping[str, str],
) -> float | None:
    """Run one job of a sweep, possibly in another process or on another machine, and record its outcome.

    Returns:
        The job's objective, which Hydra passes to the sweeper.

    Raises:
        VCMError: If the job failed with an error that the user can fix, so that the sweeper knows. Other
            errors propagate unchanged.
        KeyboardInterrupt: If the job was interrupted; this ends the sweep.
    """
    keep_record(token, job_record(2, "it did not finish"))
    try:
        key = job_key(command, composed, versions)
        folder = Path(HydraConfig.get().runtime.output_dir)
        if record := finished_job(folder, key):
            print(f"vcm {command}: {printable(folder)} is already done; remove {JOB_FILE} to run it again")
            record = replace(record, number=int(HydraConfig.get().job.num), folder=str(folder))
        else:
            (folder / JOB_FILE).unlink(missing_ok=True)
            result = job(composed)
            error = {0: "", 1: "done, with images or labels skipped"}.get(result.status, "interrupted")
            record = job_record(result.status, error, result=result, key=key)
            if result.status in (0, 1) and result.is_kept:
                record.write(folder / JOB_FILE)
    except Exception as error:
        cause = user_message(error, command)
        failed = job_record(2, cause or f"{type(error).__name__}: {error}")
        keep_record(token, failed)
        with suppress(OSError):
            failed.write(Path(failed.folder) / JOB_FILE)
        if cause is None:
            traceback.print_exc()
            raise
        _print_error(command, cause)
        raise VCMError(cause) from None  # a type that every launcher can pickle
    keep_record(token, record)
    if record.status == _INTERRUPTED:
        raise KeyboardInterrupt
    return None if record.objective is None else record.objective.value


def _tell_records(command: str, records: Sequence[JobRecord], statuses: list[int]) -> bool:
    """Print the best job of a sweep and its failed jobs. Returns whether any job failed."""
    statuses += [record.status for record in records]
    if (best := best_record(records)) and best.objective and best.objective.value is not None:
        print(
            printable(
                f"vcm {command}: best of {len(records)} jobs: {best.objective.name} "
                f"{best.objective.value:.6g} with {_overrides(best)} ({best.folder})"
            )
        )
    failed = [record for record in records if record.status]
    if failed:
        print(f"vcm {command}: {len(failed)} of {len(records)} jobs failed:", file=sys.stderr)
    for record in failed:
        print(printable(f"  {_overrides(record)}: {record.error} ({record.folder})"), file=sys.stderr)
    return bool(failed)


def _overrides(record: JobRecord) -> str:
    return " ".join(record.overrides) or f"job {record.number}"


def _print_error(command: str, cause: str) -> None:
    print(f"vcm {command}: error: {printable(cause, keep=chr(10))}", file=sys.stderr)
