"""What a training run leaves behind of its figures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from vcm.modules.base import NetworkModule


class MetricsFile(Callback):
    """Appends the figures of every validation to a JSONL file, and tells them on one line.

    A resumed run goes on in the same file. `seconds` counts from the start of this process's training.

    Args:
        path: The file.
        tell: Takes the line for a person.
    """

    def __init__(self, path: Path, tell: Callable[[str], None]) -> None:
        self.path, self.tell = path, tell
        self._start = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        del trainer, pl_module
        self._start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write one line."""
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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        shown = [f"{name.removeprefix('val/')} {figures[name]:.4g}" for name in _shown(figures)]
        self.tell(f"epoch {trainer.current_epoch}, {seconds:.0f} s: {', '.join(shown)}")
        del pl_module


class LastCheckpoint(Callback):
    """Keeps the state after the last whole epoch, and the model as a file: what a stopped run goes on from.

    Both are written under another name first, so that a kill leaves the ones before.

    Args:
        checkpoint: The checkpoint's path; its folder is made.
        model: The model file's path.
        notes: What the model file is to say besides.
    """

    def __init__(self, checkpoint: Path, model: Path, **notes: str) -> None:
        self.checkpoint, self.model, self.notes = checkpoint, model, notes

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            partial.replace(self.checkpoint)
            assert isinstance(pl_module, NetworkModule)
            pl_module.save_model(self.model, **self.notes)


def _shown(figures: dict[str, float | None]) -> list[str]:
    """Names of the figures that there are and that fit on a line."""
    ends = ("loss", "bpp", "psnr", "feature_error", "/map", "top_1", "rate_error", "rate_rank")
    known = [name for name, figure in figures.items() if figure is not None]
    return [name for name in known if name.startswith("val/") and name.endswith(ends)]
