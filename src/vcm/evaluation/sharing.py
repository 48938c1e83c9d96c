"""Multi-process evaluation: each process takes a share of the images, and a GPU if there are any."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from vcm.codecs.program import follow_parent
from vcm.errors import EvaluationError, VCMError
from vcm.evaluation.recording import Progress, Share

if TYPE_CHECKING:
    from vcm.evaluation.evaluate import Evaluation

_PROGRESS, _ORIGINALS, _DONE, _ERROR = "progress", "originals", "done", "error"


class Sharers:
    """Worker processes that record an evaluation's shares.

    They record the originals, wait for the choice of example images, and record the systems. They exit with
    this process, however it ends.

    Args:
        build: Builds the evaluation in the process of the given number. Picklable.
        count: Number of processes.
        progress: Progress callback for the sum over all processes.
    """

    def __init__(self, build: Callable[[int], Evaluation], count: int, progress: Progress) -> None:
        context = get_context("spawn")
        self._progress = progress
        self._done: dict[str, dict[int, tuple[int, int]]] = defaultdict(dict)
        self._connections: list[Any] = []
        self._processes = []
        for number in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_record_share, args=(build, Share(number, count), theirs))
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Sharers:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            if error[0] is not None:
                process.terminate()
            process.join()
        for connection in self._connections:
            connection.close()

    def wait_for_originals(self) -> None:
        """Wait until all originals are recorded."""
        self._wait(_ORIGINALS)

    def record_systems(self, examples: Sequence[str]) -> None:
        """Let the processes record the systems; decoded versions of the images `examples` are stored."""
        for number, connection in enumerate(self._connections):
            try:
                connection.send(list(examples))
            except OSError as error:
                raise _died(number) from error
        self._wait(_DONE)

    def _wait(self, expected: str) -> None:
        """Process messages until every process has sent the expected one.

        Raises:
            EvaluationError: If a process fails or dies.
        """
        left: dict[Any, int] = {connection: i for i, connection in enumerate(self._connections)}
        while left:
            ready: list[Any] = list(wait(list(left)))
            for connection in ready:
                number = left[connection]
                try:
                    kind, *content = connection.recv()
                except (EOFError, OSError) as error:
                    raise _died(number) from error
                if kind == _PROGRESS:
                    self._show(number, *content)
                elif kind == _ERROR:
                    raise EvaluationError(content[0])
                else:
                    assert kind == expected, kind
                    del left[connection]

    def _show(self, number: int, point: str, done: int, total: int) -> None:
        self._done[point][number] = done, total
        every = self._done[point].values()
        self._progress(point, sum(done for done, _ in every), sum(total for _, total in every))


def _died(number: int) -> EvaluationError:
    return EvaluationError(
        f"Process {number} of the evaluation died: it was killed or ran out of memory. Run the same command "
        "to resume; use fewer devices if memory is short."
    )


def _record_share(build: Callable[[int], Evaluation], share: Share, connection: Connection) -> None:
    """Entry point of a worker process."""
    follow_parent()

    def progress(point: str, done: int, total: int) -> None:
        connection.send((_PROGRESS, point, done, total))

    def choose_examples() -> list[str]:
        connection.send((_ORIGINALS,))
        examples: list[str] = connection.recv()
        return examples

    try:
        build(share.number).record_share(share, choose_examples, progress)
        connection.send((_DONE,))
    except Exception as error:
        message = str(error) if isinstance(error, VCMError) else f"{type(error).__name__}: {error}"
        connection.send((_ERROR, message))
