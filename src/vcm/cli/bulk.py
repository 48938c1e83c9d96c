"""Bulk processing: in this process, on several, or on a Ray cluster. Imports no torch."""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from itertools import islice
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

from vcm.cli.files import AlreadyDone, Batch, Input, is_folder
from vcm.cli.manifest import Manifest
from vcm.cli.work import Item, Outcome, Work, told, tried
from vcm.errors import ArgumentError, MissingToolError

MAX_WORKERS = 1024
ENGINES = ("processes", "ray")
_IMAGES_A_WORKER = 16
"""Fewest images for which a process is worth its start."""
_START_S = 3.0
"""What it takes to start processes and load networks in them, in seconds."""
_TRIED = 3
"""Images whose seconds decide whether processes are worth their start; the first one loads the networks."""
_CHUNK = 4
"""Images that a process is given at once."""
_DIED = "the process that worked on it died: it was killed, or memory ran out."
_PRELOAD = ("vcm.cli.models", "vcm.evaluation.preprocessing", "vcm.data.reading", "PIL.Image")
"""What the server that processes are forked from imports."""


def add_bulk_options(parser: argparse.ArgumentParser) -> None:
    """Add --workers, --engine and --manifest."""
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes; one a core by default, or as many as are worth their start",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=ENGINES[0],
        help="processes on this machine (default), or ray: Ray Data, on the cluster at RAY_ADDRESS, whose "
        "machines have vcm and the same files at the same paths",
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="JSON lines: file, output, bytes, pixels, seconds and error of each; the same command with the "
        "same manifest goes on where it was killed",
    )


class Bulk:
    """Many files and the processes that work on them.

    Made before anything heavy is imported, so that processes start meanwhile.

    Args:
        known: Arguments of `add_bulk_options`, and `device`.
        paths: Files and folders that were given.

    Raises:
        ArgumentError: If there cannot be as many workers.
        MissingToolError: If Ray is asked for and not installed.
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
        """Work on all files that are not done yet; each that fails is counted and named.

        Args:
            batch: Counts and shows.
            inputs: The files.
            place: Where a file's output goes.
            claim: Gives the item if its output may be written, else raises; takes whether a manifest goes on.
            work: What is done with a file.
            settings: What outputs depend on, as plain JSON values.
            is_slow: Whether one file takes seconds.
            collect: Takes every outcome without an error.
        """
        from vcm.cli.devices import use_one_thread

        use_one_thread(self.device)  # as in processes, so that outputs do not depend on their number
        manifest = None if self._path is None else Manifest(self._path, settings)

        def ready() -> Iterator[Item]:
            for source in inputs:
                try:
                    item = place(source)
                    if manifest is not None and manifest.is_done(item):
                        if collect is not None:
                            collect(Outcome(item, content=manifest.content(item)))
                        raise AlreadyDone(item.target)
                    item = claim(item, manifest is not None and manifest.goes_on)
                except AlreadyDone:
                    batch.num_skipped += 1
                    batch.advance()
                except Exception as error:  # one bad file must not lose the others
                    finish(Outcome(Item(source.path, source.path), error=told(error, source.path)))
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
        """Work on the items, on as many processes as are asked for or save time."""
        if self.engine == "ray":
            yield from run_on_ray(work, items, self.workers)
            return
        workers = self.workers or default_workers(num_files, is_slow=is_slow, device=self.device)
        if workers > 1 and self.workers is None:
            seconds = []
            for outcome in _run_here(batch, work, islice(items, _TRIED)):
                seconds.append(outcome.seconds)
                yield outcome
            workers = worth_while(workers, num_files - len(seconds), seconds)
        if workers == 1:
            yield from _run_here(batch, work, items)
            return
        self._processes = Processes(workers, chunk=1 if is_slow else _CHUNK)
        yield from self._processes.run(work, items)


def num_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(num_files: int, *, is_slow: bool, device: str) -> int:
    """One process a core, but no more than are worth their start; one where networks run on a GPU.

    Args:
        num_files: How many files there are.
        is_slow: Whether one file takes seconds.
        device: Where networks run.
    """
    if device != "cpu":
        return 1
    return max(1, min(num_cores(), num_files // (2 if is_slow else _IMAGES_A_WORKER)))


def worth_while(workers: int, num_files: int, seconds: Sequence[float]) -> int:
    """Return the number of processes that save time: `workers`, or 1 where their start takes longer.

    Args:
        workers: How many there could be.
        num_files: Files that are left.
        seconds: What the first files took; the first of them loaded the networks.
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
            f"--engine ray needs Ray Data, which cannot be imported ({error}). Install it: "
            "pip install 'vcm[ray]'"
        ) from error


def _run_here(batch: Batch, work: Work, items: Iterable[Item]) -> Iterator[Outcome]:
    for item in items:
        with batch.step_bar(item.source.name) as bar:
            outcome = tried(work, item, bar)
        yield outcome


class Processes:
    """Worker processes, forked from a server that has imported what work needs.

    They end with this process, however it ends, and leave Ctrl-C to it.

    Args:
        workers: How many.
        chunk: Files that a process is given at once.
    """

    def __init__(self, workers: int, chunk: int = _CHUNK) -> None:
        self.workers, self._chunk = workers, chunk
        self._executor = self._start()
        self._running: dict[Future[list[Outcome]], list[Item]] = {}

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, get_context("forkserver"), initializer=_begin_worker)

    def run(self, work: Work, items: Iterable[Item]) -> Iterator[Outcome]:
        """Work on items as they come, a bounded number at a time; outcomes come as they are done."""
        content = pickle.dumps(work)
        queue = iter(items)
        running = self._running
        try:
            while True:
                while len(running) < 2 * self.workers and (chunk := list(islice(queue, self._chunk))):
                    running[self._executor.submit(_run_chunk, content, chunk)] = chunk
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                broken: list[Item] = []
                for future in done:
                    try:
                        yield from future.result()
                    except BrokenProcessPool:
                        broken += running[future]
                    del running[future]
                if broken:  # by one of the chunks, but it is not known which
                    broken += [item for chunk in running.values() for item in chunk]
                    running.clear()
                    self._executor = self._start()
                    yield from self._one_by_one(content, broken)
        finally:
            self._executor.shutdown(cancel_futures=True)

    def finish_started(self) -> Iterator[Outcome]:
        """After an interrupt: outcomes of what had been started."""
        self._executor.shutdown(cancel_futures=True)
        for future in self._running:
            if future.done() and not future.cancelled() and future.exception() is None:
                yield from future.result()

    def _one_by_one(self, content: bytes, items: Sequence[Item]) -> Iterator[Outcome]:
        """Try again, such that only a file that ends its process is lost."""
        for item in items:
            try:
                yield from self._executor.submit(_run_chunk, content, [item]).result()
            except BrokenProcessPool:
                yield Outcome(item, error=_DIED)
                self._executor = self._start()


_WORK: dict[bytes, Work] = {}
"""Of a worker process: what it was last given, with the networks that it has loaded."""


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, end with it, and compute on one thread."""
    warnings.simplefilter("ignore")  # the parent has shown them
    import torch

    from vcm.evaluation.sharing import follow_parent

    follow_parent()
    torch.set_num_threads(1)


def _run_chunk(content: bytes, items: Sequence[Item]) -> list[Outcome]:
    if content not in _WORK:
        _WORK.clear()
        _WORK[content] = pickle.loads(content)  # noqa: S301  of the process that started this one
    return [tried(_WORK[content], item) for item in items]


class _RayWork:
    """An actor of Ray Data: work with its networks loaded.

    Args:
        content: The pickled work.
    """

    def __init__(self, content: bytes) -> None:
        import torch

        torch.set_num_threads(1)
        self._work: Work = pickle.loads(content)  # noqa: S301  of the process that started this one

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        item: Item = pickle.loads(row["item"])  # noqa: S301  likewise
        return {"outcome": pickle.dumps(tried(self._work, item))}


def run_on_ray(work: Work, items: Iterable[Item], workers: int | None) -> Iterator[Outcome]:
    """Work on items by Ray Data, on the cluster at RAY_ADDRESS or one that is started on this machine.

    Args:
        work: What is done.
        items: The files.
        workers: Number of actors; None for one a core of the cluster but one.
    """
    ray: Any = import_module("ray")
    import_module("ray.data")
    rows = [{"item": pickle.dumps(item)} for item in items]
    if not rows:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level="warning")
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), 8 * cores))
        found = data.map(
            _RayWork, fn_constructor_args=[pickle.dumps(work)], concurrency=workers or max(1, cores - 1)
        )
        for row in found.iter_rows():
            yield pickle.loads(row["outcome"])  # noqa: S301  of this cluster's own actors
    finally:
        if started:
            ray.shutdown()
