"""Process many files: in this process, in worker processes or on a Ray cluster. Does not import torch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

from vcm.cli.engines import CHUNK, Processes, run_on_ray
from vcm.cli.manifest import Manifest
from vcm.cli.paths import AlreadyDone, Batch, Input, is_folder
from vcm.cli.work import Item, Outcome, Work, message_of, tried
from vcm.errors import ArgumentError, MissingToolError
from vcm.files import remove_partial_files

MAX_WORKERS = 1024
ENGINES = ("processes", "ray")
_IMAGES_A_WORKER = 16
"""Minimum images per worker process; with fewer, starting the process costs more than it saves."""
_START_S = 3.0
"""Approximate time to start worker processes and load the networks in them, in seconds."""
_TRIED = 3
"""Images timed in this process before workers start; the first time includes loading the networks."""
_PRELOAD = ("vcm.cli.models", "vcm.encoding.preprocessing", "vcm.data.reading", "PIL.Image")
"""Modules that the fork server imports before it forks workers."""


def add_bulk_options(parser: argparse.ArgumentParser) -> None:
    """Add --workers, --engine and --manifest."""
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of worker processes; default: one per core, fewer if starting them would cost more time",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="processes: worker processes on this machine (default); ray: Ray Data on the cluster at "
        "RAY_ADDRESS, where every node needs vcm and the same files at the same paths",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="JSON-lines log with file, output, bytes, pixels, seconds and error of each input; repeat the "
        "same command with the same manifest to resume an interrupted run",
    )


class Bulk:
    """Batch processing of many files with optional worker processes.

    Create it before importing heavy modules: the fork server then starts in the background.

    Args:
        known: Parsed arguments of `add_bulk_options`, plus `device`.
        paths: Files and folders from the command line.

    Raises:
        ArgumentError: If --workers is not in [1, 1024].
        MissingToolError: If --engine ray is given and Ray Data is not installed.
    """

    def __init__(self, known: argparse.Namespace, paths: Sequence[Path]) -> None:
        self.workers: int | None = known.workers
        self.engine, self.device = known.engine, known.device
        self._path: Path | None = known.manifest
        self._processes: Processes | None = None
        if self.workers is not None and not 1 <= self.workers <= MAX_WORKERS:
            raise ArgumentError(
                "--workers", expected=f"a whole number from 1 to {MAX_WORKERS}", got=self.workers
            )
        if self.engine == "ray":
            _check_ray()
        may_use_processes = self.engine == "processes" and self.workers != 1 and self.device == "cpu"
        many = len(paths) >= _IMAGES_A_WORKER or any(map(is_folder, paths))
        if may_use_processes and num_cores() > 1 and (many or self.workers is not None):
            get_context("forkserver").set_forkserver_preload([*_PRELOAD])
            forkserver.ensure_running()

    def run(
        self,
        batch: Batch,
        inputs: Sequence[Input],
        place: Callable[[Input], Item],
        claim: Callable[[Item, bool], Item],
        work: Work,
        *,
        settings: Mapping[str, Any],
        is_slow: bool = False,
        collect: Callable[[Outcome], None] | None = None,
    ) -> None:
        """Process every file that is not done yet; failures are reported and counted but do not stop the run.

        Args:
            batch: Counters and progress bars.
            inputs: The files.
            place: Returns the work item (with its output path) of an input.
            claim: Returns the item if its output may be written, and raises otherwise. The second argument
                is True if the run resumes from a manifest.
            work: Processes one item.
            settings: Everything that the outputs depend on, as plain JSON values.
            is_slow: Whether one file takes seconds.
            collect: Called with every successful outcome.
        """
        from vcm.cli.devices import use_one_thread

        use_one_thread(self.device)  # as in worker processes, so that outputs do not depend on their number
        manifest = None if self._path is None else Manifest(self._path, settings)

        cleaned: set[Path] = set()

        def ready() -> Iterator[Item]:
            for source in inputs:
                try:
                    item = place(source)
                    if manifest is not None and manifest.is_done(item):
                        if collect is not None:
                            collect(Outcome(item, content=manifest.content(item)))
                        raise AlreadyDone(item.target)
                    goes_on = manifest is not None and manifest.goes_on
                    if goes_on and item.target.parent not in cleaned:
                        cleaned.add(item.target.parent)
                        remove_partial_files(item.target.parent, owned=False)
                    item = claim(item, goes_on)
                except AlreadyDone:
                    batch.num_skipped += 1
                    batch.advance()
                except Exception as error:  # one bad file must not lose the others
                    finish(Outcome(Item(source.path, source.path), error=message_of(error, source.path)))
                else:
                    yield item

        def finish(outcome: Outcome) -> None:
            batch.count(outcome)
            if manifest is not None:
                manifest.add(outcome)
            if collect is not None and not outcome.error:
                collect(outcome)

        try:
            with batch.progress(len(inputs)):
                for outcome in self._outcomes(batch, work, ready(), len(inputs), is_slow=is_slow):
                    finish(outcome)
        except KeyboardInterrupt:
            if self._processes is not None:
                for outcome in self._processes.finish_started():
                    finish(outcome)
            raise
        finally:
            if manifest is not None:
                manifest.close()

    def _outcomes(
        self, batch: Batch, work: Work, items: Iterator[Item], num_files: int, *, is_slow: bool
    ) -> Iterator[Outcome]:
        """Process the items with the requested number of workers, or with as many as save time."""
        if self.engine == "ray":
            yield from run_on_ray(work, items, self.workers)
            return
        workers = self.workers or default_workers(num_files, is_slow=is_slow, device=self.device)
        if workers > 1 and self.workers is None:
            seconds = []
            for outcome in _run_here(batch, work, islice(items, _TRIED)):
                if not outcome.error:
                    seconds.append(outcome.seconds)
                yield outcome
            workers = worth_while(workers, num_files - _TRIED, seconds)
        if workers == 1:
            yield from _run_here(batch, work, items)
            return
        self._processes = Processes(workers, chunk=1 if is_slow else CHUNK)
        yield from self._processes.run(work, items)


def num_cores() -> int:
    """Return the number of CPU cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(num_files: int, *, is_slow: bool, device: str) -> int:
    """Return the default number of worker processes: 1 on a GPU, otherwise up to one per core.

    Args:
        num_files: Number of input files.
        is_slow: Whether one file takes seconds.
        device: Device of the networks.
    """
    if device != "cpu":
        return 1
    return max(1, min(num_cores(), num_files // (2 if is_slow else _IMAGES_A_WORKER)))


def worth_while(workers: int, num_files: int, seconds: Sequence[float]) -> int:
    """Return `workers` if that many processes save time, and 1 if starting them takes longer.

    Args:
        workers: Candidate number of processes.
        num_files: Number of remaining files.
        seconds: Processing times of the first successful files; the first includes loading the networks.
    """
    if len(seconds) < 2:
        return workers
    saved = num_files * min(seconds[1:]) * (1 - 1 / workers)
    return workers if saved > _START_S else 1


def _check_ray() -> None:
    try:
        import ray.data  # noqa: F401
    except ImportError as error:
        raise MissingToolError(
            f"--engine ray needs Ray Data, which failed to import ({error}). Install it with: "
            "pip install 'vcm[ray]'"
        ) from error


def _run_here(batch: Batch, work: Work, items: Iterable[Item]) -> Iterator[Outcome]:
    for item in items:
        with batch.step_bar(item.source.name) as bar:
            outcome = tried(work, item, bar)
        yield outcome
