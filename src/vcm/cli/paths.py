"""Inputs, outputs and batches of the file commands. Does not import torch."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vcm.cli.work import Outcome
from vcm.codecs.learned.container import MAGIC, PURPOSES
from vcm.errors import BitstreamError, OutputError
from vcm.files import MAX_IMAGE_BYTES, open_regular, printable, replacing

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

VIEWING, RECONSTRUCTION = "viewing", PURPOSES[0]
"""Name of the reconstruction task on the command line, and in streams and model files."""
STREAM_SUFFIX = ".vcm"
_HEAD_BYTES = 64
_BAR_AFTER_S = 2.0


@dataclass(frozen=True)
class Input:
    """One input file.

    Attributes:
        path: The file.
        root: The folder given on the command line, or the file's parent; outputs mirror paths relative to it.
    """

    path: Path
    root: Path

    def below(self, folder: Path | None) -> Path:
        """Return the file's path relative to `root`, below `folder`; the file's own path if that is None."""
        return self.path if folder is None else folder / self.path.relative_to(self.root)


def find_inputs(
    paths: Sequence[Path], find: Callable[[Path, list[str]], list[Path]], what: str
) -> tuple[list[Input], list[str]]:
    """Collect the given files and those in the given folders, and describe the paths that cannot be used.

    If files of several folders would be written to the same output, the names of the folders are prepended to
    their relative paths.

    Args:
        paths: Files and folders.
        find: Returns the files below a folder, and appends a message to the list for unreadable entries.
        what: Plural noun for the files in messages, such as "images".

    Returns:
        The inputs without duplicates, and the messages.
    """
    inputs: list[Input] = []
    problems: list[str] = []
    from_folders: list[Input] = []
    for path in paths:
        try:
            path.stat()
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            problems.append(f"{path}: cannot be read: {getattr(error, 'strerror', error)}.")
            continue
        if not is_folder(path):
            inputs.append(Input(path, path.parent))
            continue
        found = [Input(file, path) for file in find(path, problems)]
        from_folders += found
        if not found:
            problems.append(f"{path}: there are no {what} in this folder.")
    from_folders = list(dict.fromkeys(from_folders))
    if _meet(from_folders):
        from_folders = [
            replace(source, root=source.root.parent) if source.root.name else source
            for source in from_folders
        ]
    if _meet(from_folders):  # folders of the same name
        top = Path(os.path.commonpath([source.root for source in from_folders]))
        from_folders = [replace(source, root=top) for source in from_folders]
    return list(dict.fromkeys([*inputs, *from_folders])), problems


def _meet(inputs: Iterable[Input]) -> bool:
    """Return whether two inputs have the same path relative to their roots."""
    counts = Counter(source.path.relative_to(source.root) for source in inputs)
    return any(count > 1 for count in counts.values())


def names_a_file(output: Path | None, paths: Sequence[Path]) -> bool:
    """Return whether `output` names a file, not a folder: there is one input file, and it has a suffix."""
    only = paths[0] if len(paths) == 1 else None
    return bool(only and not is_folder(only) and output and output.suffix and not is_folder(output))


def is_folder(path: Path) -> bool:
    """Return whether a folder exists; False for a path that the system rejects."""
    return os.path.isdir(path)  # noqa: PTH112  Path.is_dir raises for a path that is too long


def shown_task(task: str) -> str:
    """Return a task's name as `--for` takes it."""
    return VIEWING if task == RECONSTRUCTION else task


def read_stream_file(path: Path) -> bytes:
    """Read a stream file. Of other files, read only the first bytes, which identify the format.

    Raises:
        BitstreamError: If the file cannot be read.
    """
    try:
        with open_regular(path, limit=MAX_IMAGE_BYTES) as file:
            head = file.read(_HEAD_BYTES)
            return head + file.read() if head.startswith(MAGIC) else head
    except OSError as error:
        raise BitstreamError(f"{path}: cannot be read: {error.strerror}.") from error


class Outputs:
    """The output files of one call. Guards inputs, existing files and outputs of other inputs.

    Args:
        keep: Files that the call reads.
        overwrite: Whether existing files may be replaced.
    """

    def __init__(self, keep: Iterable[Path], *, overwrite: bool) -> None:
        self.overwrite = overwrite
        self._keep = {os.path.realpath(path) for path in keep}
        self._sources: dict[str, Path] = {}

    def claim(
        self,
        path: Path,
        source: Path,
        current: Callable[[], bool] | None = None,
        *,
        replaceable: Callable[[], bool] | None = None,
    ) -> None:
        """Check that an output file may be written, before any work is done for it.

        Args:
            path: The output file.
            source: The input that it is made from.
            current: Returns whether an existing output is up to date; default: it is not.
            replaceable: Returns whether an existing output may be replaced; default: it may not.

        Raises:
            AlreadyDone: If the existing output is up to date and `overwrite` is False.
            OutputError: If it is an input, belongs to another input, exists, or cannot be written.
        """
        real = os.path.realpath(path)
        if real in self._keep:
            raise OutputError(
                f"{path} is an input of this command and cannot be its output. Choose another -o."
            )
        if self._sources.setdefault(real, source) != source:
            raise OutputError(
                f"{path} is already the output of {self._sources[real]}. Process inputs of the same name in "
                "separate calls, each with its own -o."
            )
        if os.path.lexists(path) and not self.overwrite:
            if current is not None and current():
                raise AlreadyDone(path)
            if replaceable is None or not replaceable():
                raise OutputError(f"{path} exists already. Use --overwrite to replace it.")
        folder = Path(real).parent
        while not os.path.lexists(folder):
            folder = folder.parent
        if not folder.is_dir():
            raise OutputError(f"{path} cannot be written: {folder} is a file. Choose another -o.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(
                f"{path} cannot be written: the folder {folder} is not writable. Choose another -o."
            )


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to `path` on success and removed on failure.

    Raises:
        OutputError: If the disk is full or the folder is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


class AlreadyDone(Exception):  # noqa: N818  not an error
    """Raised if an earlier call has already written an output."""


def is_newer(path: Path, source: Path) -> bool:
    """Return whether a file is at least as new as its source (modification time and inode change time)."""
    try:
        status = source.stat()
        return path.is_file() and path.stat().st_mtime_ns >= max(status.st_mtime_ns, status.st_ctime_ns)
    except OSError:
        return False


class StepBar:
    """Progress bar for the search of one image, shown once the search takes more than two seconds.

    Args:
        name: Name of the image.
        bars: Progress bars of the batch; None shows nothing.
    """

    def __init__(self, name: str, bars: Progress | None) -> None:
        self.name, self._bars, self._start = name, bars, time.perf_counter()
        self._line: TaskID | None = None

    def __enter__(self) -> StepBar:
        return self

    def __call__(self, done: int, steps: int) -> None:
        """Update the bar."""
        if self._bars is None or time.perf_counter() - self._start < _BAR_AFTER_S:
            return
        if self._line is None:
            self._line = self._bars.add_task(printable(self.name), total=steps)
        self._bars.update(self._line, completed=done)

    def __exit__(self, *error: object) -> None:
        if self._bars is not None and self._line is not None:
            self._bars.remove_task(self._line)


@dataclass
class Batch:
    """Counters and progress of work on many files, in which a failing file does not stop the rest.

    Attributes:
        command: Name of the command.
        num_files: Number of processed files.
        num_bytes: Total size of their streams.
        num_pixels: Total number of pixels of their images.
        num_failures: Number of problems reported on standard error.
        num_skipped: Number of files that an earlier call has processed.
    """

    command: str
    num_files: int = 0
    num_bytes: int = 0
    num_pixels: int = 0
    num_failures: int = 0
    num_skipped: int = 0
    _bars: Progress | None = field(default=None, init=False, repr=False)
    _line: TaskID | None = field(default=None, init=False, repr=False)

    def step_bar(self, name: str) -> StepBar:
        """Return the progress bar for one image's search, as a context manager."""
        return StepBar(name, self._bars)

    def tell(self, problem: str) -> None:
        """Report a skipped input on standard error."""
        print(f"vcm {self.command}: skipped: {printable(problem)}", file=sys.stderr)
        self.num_failures += 1

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Show a progress bar over `total` files, if standard error is a terminal."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
            self._bars, self._line = bars, bars.add_task(self.command, total=total)
            yield

    def advance(self) -> None:
        """Advance the progress bar by one file."""
        if self._bars is not None and self._line is not None:
            self._bars.advance(self._line)

    def count(self, outcome: Outcome) -> None:
        """Count one file, and report it if it failed."""
        if outcome.error:
            self.tell(f"{outcome.item.source}: {outcome.error}")
        else:
            self.num_files += 1
            self.num_bytes += outcome.num_bytes
            self.num_pixels += outcome.num_pixels
        self.advance()

    def finish(self) -> int:
        """Print a summary line and return the exit status: 0, or 1 if there were problems."""
        bpp = f", {8 * self.num_bytes / self.num_pixels:.4f} bpp" if self.num_pixels else ""
        there = f"; {self.num_skipped} already done" if self.num_skipped else ""
        left_out = f"; {self.num_failures} skipped" if self.num_failures else ""
        files = "1 file" if self.num_files == 1 else f"{self.num_files} files"
        print(f"{files}, {self.num_bytes:,} bytes{bpp}{there}{left_out}")
        return 1 if self.num_failures else 0
