"""Engines for bulk processing: worker processes and Ray Data. Does not import torch."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from itertools import islice
from multiprocessing import get_context
from typing import Any

from vcm.cli.work import Item, Outcome, Work, tried

CHUNK = 4
"""Images sent to a worker process at once."""
_DIED = "the worker process died: it was killed or ran out of memory."


class Processes:
    """Worker processes, forked from a server that has already imported the heavy modules.

    Workers exit with this process, however it ends, and leave Ctrl-C handling to it.

    Args:
        workers: Number of processes.
        chunk: Number of files sent to a process at once.
    """

    def __init__(self, workers: int, chunk: int = CHUNK) -> None:
        self.workers, self._chunk = workers, chunk
        self._executor = self._start()
        self._running: dict[Future[list[Outcome]], list[Item]] = {}

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.workers, get_context("forkserver"), initializer=_begin_worker)

    def run(self, work: Work, items: Iterable[Item]) -> Iterator[Outcome]:
        """Process items with a bounded queue, and yield outcomes as they finish."""
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
                if broken:  # any of the running chunks may have killed its process: retry them all
                    broken += [item for chunk in running.values() for item in chunk]
                    running.clear()
                    self._executor = self._start()
                    yield from self._one_by_one(content, broken)
        finally:
            self._executor.shutdown(cancel_futures=True)

    def finish_started(self) -> Iterator[Outcome]:
        """Yield the outcomes that were complete at the time of an interrupt."""
        self._executor.shutdown(cancel_futures=True)
        for future in self._running:
            if future.done() and not future.cancelled() and future.exception() is None:
                yield from future.result()

    def _one_by_one(self, content: bytes, items: Sequence[Item]) -> Iterator[Outcome]:
        """Retry items one at a time, so that only the item that kills its process is lost."""
        for item in items:
            try:
                yield from self._executor.submit(_run_chunk, content, [item]).result()
            except BrokenProcessPool:
                yield Outcome(item, error=_DIED)
                self._executor = self._start()


_WORK: dict[bytes, Work] = {}
"""The pickled work of this worker process and the unpickled object, which holds the loaded networks."""


def _begin_worker() -> None:
    """Set up a worker: ignore Ctrl-C, exit with the parent, compute on one thread."""
    warnings.simplefilter("ignore")  # the parent has already shown them
    import torch

    from vcm.codecs.program import follow_parent

    follow_parent()
    torch.set_num_threads(1)


def _run_chunk(content: bytes, items: Sequence[Item]) -> list[Outcome]:
    if content not in _WORK:
        _WORK.clear()
        _WORK[content] = pickle.loads(content)  # noqa: S301  comes from the parent process
    return [tried(_WORK[content], item) for item in items]


class _RayWork:
    """Ray Data actor that keeps its networks loaded.

    Args:
        content: The pickled work.
    """

    def __init__(self, content: bytes) -> None:
        import torch

        torch.set_num_threads(1)
        self._work: Work = pickle.loads(content)  # noqa: S301  comes from the parent process

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        item: Item = pickle.loads(row["item"])  # noqa: S301  comes from the parent process
        return {"outcome": pickle.dumps(tried(self._work, item))}


def run_on_ray(work: Work, items: Iterable[Item], workers: int | None) -> Iterator[Outcome]:
    """Process items with Ray Data, on the cluster at RAY_ADDRESS or a local one started for the call.

    Args:
        work: Processes one item.
        items: The items.
        workers: Number of actors; None for the number of cluster cores minus one.
    """
    ray: Any = import_module("ray")
    import_module("ray.data")
    rows = [{"item": pickle.dumps(item)} for item in items]
    if not rows:
        return
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), 8 * cores))
        found = data.map(
            _RayWork, fn_constructor_args=[pickle.dumps(work)], concurrency=workers or max(1, cores - 1)
        )
        for row in found.iter_rows():
            yield pickle.loads(row["outcome"])  # noqa: S301  comes from this cluster's own actors
    finally:
        if started:
            ray.shutdown()
