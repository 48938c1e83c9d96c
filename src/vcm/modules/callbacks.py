"""Callbacks: metrics file, last checkpoint, final validation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from vcm.errors import OutputError
from vcm.files import read_text, temporary_path, write_text


class MetricsFile(Callback):
    """Write the metrics of every validation to a JSONL file, and print them.

    A resumed run appends to the same file, after the last line before its checkpoint. `seconds` counts from
    the start of training in this process.

    Args:
        path: The file; None for no file.
        tell: Function that prints a line.
    """

    def __init__(self, path: Path | None, tell: Callable[[str], None]) -> None:
        self.path, self.tell = path, tell
        self._start = time.perf_counter()
        self._lines: list[str] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and read the lines up to the resumed step."""
        del pl_module
        self._start = time.perf_counter()
        if self.path is not None and self.path.exists() and trainer.is_global_zero:
            self._lines = [
                line
                for line in read_text(self.path).splitlines()
                if (step := _step(line)) is not None and step <= trainer.global_step
            ]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write one line."""
        del pl_module
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        figures = {
            name: round(float(value), 6) if value.isfinite() else None
            for name, value in trainer.callback_metrics.items()
            if name.startswith(("val/", "train/"))
        }
        seconds = round(time.perf_counter() - self._start, 1)
        rates = {f"lr{i}": o.param_groups[0]["lr"] for i, o in enumerate(trainer.optimizers)}
        line = {
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "seconds": seconds,
            **rates,
            **figures,
        }
        self._lines.append(json.dumps(line))
        if self.path is not None:
            with _output(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_text(self.path, "".join(f"{line}\n" for line in self._lines))
        shown = [f"{name.removeprefix('val/')} {figures[name]:.4g}" for name in _shown(figures)]
        self.tell(f"epoch {trainer.current_epoch}, {seconds:.0f} s: {', '.join(shown)}")


class LastCheckpoint(Callback):
    """Save a checkpoint and the model file after each epoch.

    Both are written to a temporary file first, so that a killed process leaves the previous ones. The
    checkpoint comes first; a resumed run writes the model file again, in case it was killed between the two.

    Args:
        checkpoint: Path of the checkpoint; its folder is created.
        model: Path of the model file; written if the module has `save_model(path, **notes)`.
        notes: Metadata of the model file.

    Attributes:
        trained: Whether training has started.
    """

    def __init__(self, checkpoint: Path, model: Path, **notes: str) -> None:
        self.checkpoint, self.model, self.notes = checkpoint, model, notes
        self.trained = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the model file of the resumed checkpoint."""
        if trainer.is_global_zero and self.checkpoint.exists():
            self._save_model(pl_module)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Record that training has started."""
        del trainer, pl_module, batch, batch_idx
        self.trained = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save checkpoint and model file."""
        with _output(self.checkpoint):
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(trainer.strategy.broadcast(str(temporary_path(self.checkpoint))))
            try:
                trainer.save_checkpoint(partial, weights_only=False)
                if trainer.is_global_zero:
                    partial.replace(self.checkpoint)
            except BaseException:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)
                raise
        if trainer.is_global_zero:
            self._save_model(pl_module)

    def _save_model(self, pl_module: LightningModule) -> None:
        if callable(save_model := getattr(pl_module, "save_model", None)):
            with _output(self.model):
                save_model(self.model, **self.notes)


class FinalValidation(Callback):
    """Validate after the last training step, so that the final weights have metrics.

    Lightning validates every `check_val_every_n_epoch` epochs only, and training may end in between, by
    `max_steps`, `max_epochs`, `max_time` or a callback. Must be the last callback.
    """

    def __init__(self) -> None:
        self._every: int | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Have Lightning validate after this batch if it is the last one."""
        del pl_module, outputs, batch, batch_idx
        reached = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        last_epoch = trainer.max_epochs not in (None, -1) and trainer.current_epoch + 1 == trainer.max_epochs
        if (reached or trainer.should_stop or (last_epoch and trainer.is_last_batch)) and self._every is None:
            self._every = trainer.check_val_every_n_epoch
            if self._every is not None:
                trainer.check_val_every_n_epoch = 1
            trainer.should_stop = trainer.should_stop or reached

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the trainer's setting, which `ModelCheckpoint` reads before this hook."""
        del pl_module
        if self._every is not None:
            trainer.check_val_every_n_epoch, self._every = self._every, None


@contextmanager
def _output(path: Path) -> Iterator[None]:
    """Convert errors of writing, such as a full disk, to OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}. Free some space or use another run_dir; "
            "the same command resumes from the last checkpoint."
        ) from error


def _step(line: str) -> int | None:
    """Return the step of a line; None for a damaged line."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if isinstance(step, int) else None


def _shown(figures: dict[str, float | None]) -> list[str]:
    """Return the names of the printed metrics."""
    ends = ("loss", "bpp", "psnr", "feature_error", "/map", "top_1", "rate_error", "rate_rank")
    known = [name for name, figure in figures.items() if figure is not None]
    return [name for name in known if name.startswith("val/") and name.endswith(ends)]
