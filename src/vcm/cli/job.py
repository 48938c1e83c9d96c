"""What the commands share that compose their configuration through Hydra."""

from __future__ import annotations

import os
import secrets
import sys
import traceback
from collections.abc import Callable, Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from vcm.cli.composition import told_error
from vcm.cli.sweeps import JobRecord, SweepFolder, collect_records, record_job, sweep_name
from vcm.data.assets import asset_file
from vcm.errors import VCMError
from vcm.evaluation.names import file_name
from vcm.files import printable
from vcm.nn.hardware import cpu_has_bf16
from vcm.weights import shipped

_INTERRUPTED = 130


def run_job(command: str, arguments: Sequence[str], job: Callable[[DictConfig], int]) -> int:
    """Compose conf/<command>.yaml with the arguments and run the job; once for every combination of a sweep.

    An error that is the user's to fix is printed without a traceback, unless HYDRA_FULL_ERROR=1. A failed job
    of a sweep does not stop the others; under every launcher it is named at the end.

    Returns:
        The worst exit status of them all; 2 for such an error.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    show_tracebacks = before == "1"
    started_as = sys.argv
    token = secrets.token_hex(4)
    statuses: list[int] = []

    @hydra.main(version_base="1.3", config_path="pkg://vcm.conf", config_name=command)
    def main(composed: DictConfig) -> None:
        sys.argv = [started_as[0], command, *arguments]  # Lightning starts processes for more devices with it
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            return _run_swept(command, token, lambda: job(composed))
        try:
            statuses.append(job(composed))
        except Exception as error:  # here, or Hydra adds a line of its own
            cause = told_error(error, command)
            if cause is None or show_tracebacks:
                raise
            _print_error(command, cause)
            statuses.append(2)
        return None

    register_resolvers()
    # A "+" was needed once for settings of the trainer that conf/ has now; Hydra refuses it where they are.
    arguments = [f"+{a}" if a.startswith("+trainer.") else a for a in arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its errors itself, and exits with 1
    sys.argv = [f"vcm {command}", *arguments]
    SweepFolder.current = None
    try:
        main()
    except Exception as error:
        cause = told_error(error, command)
        failed = _tell_records(command, collect_records(token), statuses)
        if show_tracebacks or (cause is None and not failed):
            raise
        if cause is not None and not failed:  # else it is one job's, and told
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


def _run_swept(command: str, token: str, work: Callable[[], int]) -> None:
    """Run one job of a sweep, perhaps in a process or on a machine of its own, and record how it ended.

    Raises:
        VCMError: If it failed on something that is the user's to fix; a sweeper must know. Any other error as
            it is.
        KeyboardInterrupt: If it was interrupted, which ends the sweep.
    """
    record_job(token, 2, "it did not end")
    try:
        status = work()
    except Exception as error:
        cause = told_error(error, command)
        record_job(token, 2, cause or f"{type(error).__name__}: {error}")
        if cause is None:
            traceback.print_exc()
            raise
        _print_error(command, cause)
        raise VCMError(cause) from None  # of a kind that every launcher can send
    record_job(token, status, {0: "", 1: "done, with images or labels left out"}.get(status, "interrupted"))
    if status == _INTERRUPTED:
        raise KeyboardInterrupt


def _tell_records(command: str, records: Sequence[JobRecord], statuses: list[int]) -> bool:
    """Print which jobs of a sweep failed; returns whether there are any."""
    statuses += [record.status for record in records]
    failed = [record for record in records if record.status]
    if failed:
        print(f"vcm {command}: {len(failed)} of {len(records)} jobs failed:", file=sys.stderr)
    for record in failed:
        what = " ".join(record.overrides) or f"job {record.number}"
        print(printable(f"  {what}: {record.error} ({record.folder})"), file=sys.stderr)
    return bool(failed)


def _print_error(command: str, cause: str) -> None:
    print(f"vcm {command}: error: {printable(cause, keep=chr(10))}", file=sys.stderr)


def register_resolvers() -> None:
    """Let configurations say ${asset:name,file}, ${file_name:text}, ${sweep_name:…}, ${shipped:name} and
    ${cpu_precision:}.
    """
    OmegaConf.register_new_resolver("asset", lambda name, file: str(asset_file(name, file)), replace=True)
    OmegaConf.register_new_resolver("file_name", file_name, replace=True)
    OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
    OmegaConf.register_new_resolver("cpu_precision", cpu_precision, replace=True)
    OmegaConf.register_new_resolver("shipped", lambda name: str(shipped(name)), replace=True)


def cpu_precision() -> str:
    """The precision in which a CPU trains: "bf16-mixed" where it has instructions for that."""
    return "bf16-mixed" if cpu_has_bf16() else "32-true"
