"""Engines of bulk processing: worker processes, and Ray Data. Imports no torch."""

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
"""Images that a process is given at once."""
_DIED = "the process that worked on it died: it was killed, or memory ran out."


class Processes:
    """Worker processes, forked from a server that has imported what work needs.

    They end with this process, however it ends, and leave Ctrl-C to it.

    Args:
        workers: How many.
        chunk: Files that a process is given at once.
    """

    def __init__(self, workers: int, chunk: int = CHUNK) -> None:
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
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
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
