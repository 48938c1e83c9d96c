"""Inputs, outputs and batches of file commands. Imports no torch."""

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
"""The word for a person, and the word in streams and models, for an image that people look at."""
STREAM_SUFFIX = ".vcm"
_HEAD_BYTES = 64
_BAR_AFTER_S = 2.0


@dataclass(frozen=True)
class Input:
    """One file to work on.

    Attributes:
        path: The file.
        root: The folder that was given, or the file's own; the output mirrors what lies below it.
    """

    path: Path
    root: Path

    def below(self, folder: Path | None) -> Path:
        """The same place below another folder; the file's own path where that is None."""
        return self.path if folder is None else folder / self.path.relative_to(self.root)


def find_inputs(
    paths: Sequence[Path], find: Callable[[Path, list[str]], list[Path]], what: str
) -> tuple[list[Input], list[str]]:
    """The files that were given, and those in the folders that were given; and what is wrong with the rest.

    Where files at the same place of two of the folders would meet in one output, the folders' own names come
    before their places.

    Args:
        paths: Files and folders.
        find: Gives the files below a folder, and adds a line to the list for what cannot be looked at.
        what: Word for them.
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
    if _meet(from_folders):  # folders of one name
        top = Path(os.path.commonpath([source.root for source in from_folders]))
        from_folders = [replace(source, root=top) for source in from_folders]
    return list(dict.fromkeys([*inputs, *from_folders])), problems


def _meet(inputs: Iterable[Input]) -> bool:
    """Whether two inputs have the same place below their roots."""
    counts = Counter(source.path.relative_to(source.root) for source in inputs)
    return any(count > 1 for count in counts.values())


def names_a_file(output: Path | None, paths: Sequence[Path]) -> bool:
    """Whether OUT is one file's name and not a folder's: for one input file, a name with a suffix."""
    only = paths[0] if len(paths) == 1 else None
    return bool(only and not is_folder(only) and output and output.suffix and not is_folder(output))


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; False for a path that the system does not take."""
    return os.path.isdir(path)  # noqa: PTH112  Path's raises for a path that is too long


def shown_task(task: str) -> str:
    """A task's name as `--for` takes it."""
    return VIEWING if task == RECONSTRUCTION else task


def read_stream_file(path: Path) -> bytes:
    """A file's bytes; of a file that is no stream only the first few, which tell what it is.

    Raises:
        BitstreamError: If it cannot be read.
    """
    try:
        with open_regular(path, limit=MAX_IMAGE_BYTES) as file:
            head = file.read(_HEAD_BYTES)
            return head + file.read() if head.startswith(MAGIC) else head
    except OSError as error:
        raise BitstreamError(f"{path}: cannot be read: {error.strerror}.") from error


class Outputs:
    """The files that one call writes: each once, in one move, and over nothing that has to stay.

    Args:
        keep: Files that the call reads.
        overwrite: Whether other files may be replaced.
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
        """Make sure, before any work, that a file may be written.

        Args:
            path: The file.
            source: The input that it is made from.
            current: Whether the file that is there is what would be made; by default nothing is.
            replaceable: Whether it may be made again all the same; by default nothing may.

        Raises:
            AlreadyDone: If it is there, of an earlier call, and not to be overwritten.
            OutputError: If it is an input, comes of another input too, exists, or its folder takes no files.
        """
        real = os.path.realpath(path)
        if real in self._keep:
            raise OutputError(
                f"{path} is read by this command, so it cannot be its output; choose another -o."
            )
        if self._sources.setdefault(real, source) != source:
            raise OutputError(
                f"{path} comes of {self._sources[real]} already; give inputs of the same name one call each, "
                "with another -o."
            )
        if os.path.lexists(path) and not self.overwrite:
            if current is not None and current():
                raise AlreadyDone(path)
            if replaceable is None or not replaceable():
                raise OutputError(f"{path} exists already; --overwrite replaces it.")
        folder = Path(real).parent
        while not os.path.lexists(folder):
            folder = folder.parent
        if not folder.is_dir():
            raise OutputError(f"{path} cannot be written: {folder} is a file; choose another -o.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(
                f"{path} cannot be written: no files can be made in {folder}; choose another -o."
            )


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when all is written; until then, and if that fails, there is none.

    Raises:
        OutputError: If the disk is full, or the folder takes no files.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error


class AlreadyDone(Exception):  # noqa: N818  no error
    """An earlier call has made this output."""


def is_newer(path: Path, source: Path) -> bool:
    """Whether a file is no older than the one that it is made from, as it lies in its place now."""
    try:
        status = source.stat()
        return path.is_file() and path.stat().st_mtime_ns >= max(status.st_mtime_ns, status.st_ctime_ns)
    except OSError:
        return False


class StepBar:
    """A line for one image's search among a batch's bars, once that takes more than two seconds.

    Args:
        name: The image's.
        bars: The batch's; None shows nothing.
    """

    def __init__(self, name: str, bars: Progress | None) -> None:
        self.name, self._bars, self._start = name, bars, time.perf_counter()
        self._line: TaskID | None = None

    def __enter__(self) -> StepBar:
        return self

    def __call__(self, done: int, steps: int) -> None:
        """Show that so many of all steps are done."""
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
    """Work on many files, of which one that fails does not stop the rest.

    Attributes:
        command: Whose work.
        num_files: How many are done.
        num_bytes: Of their streams.
        num_pixels: Of their images.
        num_failures: Number of problems reported on standard error.
        num_skipped: How many an earlier call has done.
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
        """A line for the search of the image of this name; enter it before the search."""
        return StepBar(name, self._bars)

    def tell(self, problem: str) -> None:
        """Say on standard error what is left out."""
        print(f"vcm {self.command}: left out: {printable(problem)}", file=sys.stderr)
        self.num_failures += 1

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Show a bar on standard error where that is a terminal, for so many files."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
            self._bars, self._line = bars, bars.add_task(self.command, total=total)
            yield

    def advance(self) -> None:
        """Show that one more file is done."""
        if self._bars is not None and self._line is not None:
            self._bars.advance(self._line)

    def count(self, outcome: Outcome) -> None:
        """Count a file, and name it if it failed."""
        if outcome.error:
            self.tell(f"{outcome.item.source}: {outcome.error}")
        else:
            self.num_files += 1
            self.num_bytes += outcome.num_bytes
            self.num_pixels += outcome.num_pixels
        self.advance()

    def finish(self) -> int:
        """Print the line that sums up; returns the exit status."""
        bpp = f", {8 * self.num_bytes / self.num_pixels:.4f} bpp" if self.num_pixels else ""
        there = f"; {self.num_skipped} there already" if self.num_skipped else ""
        left_out = f"; {self.num_failures} left out" if self.num_failures else ""
        files = "1 file" if self.num_files == 1 else f"{self.num_files} files"
        print(f"{files}, {self.num_bytes:,} bytes{bpp}{there}{left_out}")
        return 1 if self.num_failures else 0
