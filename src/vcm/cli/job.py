"""What the commands share that compose their configuration through Hydra."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

import hydra
from omegaconf import DictConfig, OmegaConf

from vcm.cli.composition import told_error
from vcm.data.assets import asset_file
from vcm.evaluation.names import file_name
from vcm.weights import shipped


def run_job(command: str, arguments: Sequence[str], job: Callable[[DictConfig], int]) -> int:
    """Compose conf/<command>.yaml with the arguments and run the job; once for every combination of a sweep.

    An error that is the user's to mend is told without a traceback, unless HYDRA_FULL_ERROR=1.

    Returns:
        The worst exit status of them all; 2 for such an error.
    """
    before = os.environ.get("HYDRA_FULL_ERROR")
    show_tracebacks = before == "1"
    statuses = [0]
    started_as = sys.argv

    def told(work: Callable[[], int]) -> None:
        try:
            statuses.append(work())
        except Exception as error:
            cause = told_error(error, command)
            if cause is None or show_tracebacks:
                raise
            print(f"vcm {command}: error: {cause}", file=sys.stderr)
            statuses.append(2)

    @hydra.main(version_base="1.3", config_path="pkg://vcm.conf", config_name=command)
    def main(composed: DictConfig) -> None:
        sys.argv = [started_as[0], command, *arguments]  # Lightning starts processes for more devices with it
        told(lambda: job(composed))

    def compose() -> int:
        main()
        return 0

    register_resolvers()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints its errors itself, and exits with 1
    sys.argv = [f"vcm {command}", *arguments]
    try:
        told(compose)
    finally:
        sys.argv = started_as
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
    return max(statuses)


def register_resolvers() -> None:
    """Let configurations say ${asset:name,file}, ${file_name:text} and ${shipped:name}."""
    OmegaConf.register_new_resolver("asset", lambda name, file: str(asset_file(name, file)), replace=True)
    OmegaConf.register_new_resolver("file_name", file_name, replace=True)
    OmegaConf.register_new_resolver("shipped", lambda name: str(shipped(name)), replace=True)
