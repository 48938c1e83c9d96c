"""`vcm train`: compose a configuration, build what it names, train, write the model."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from zipfile import is_zipfile

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, RichProgressBar
from omegaconf import DictConfig, OmegaConf

from vcm.cli.job import run_job
from vcm.cli.memory import keep_freed_memory
from vcm.config import TrainConfig
from vcm.errors import ArgumentError, WeightsError
from vcm.modules.base import NetworkModule
from vcm.modules.progress import LastCheckpoint, MetricsFile

MODEL_FILE = "model.safetensors"
_NOT_RESUMED = ("trainer", "name", "run_dir", "start_from", "hydra")
"""Settings that may change when a run is picked up: how long, on which devices."""


def run(arguments: Sequence[str]) -> int:
    """Train; with `--multirun`, once for every combination."""
    return run_job("train", arguments, train)


def train(composed: DictConfig) -> int:
    """Build and run the training that a composed configuration describes; goes on where it stopped."""
    config = OmegaConf.merge(OmegaConf.structured(TrainConfig), composed)
    keep_freed_memory()
    folder = Path(HydraConfig.get().runtime.output_dir)
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists() and not is_zipfile(last):
        raise WeightsError(f"{last} is damaged; put a copy in its place, or remove it to begin anew.")
    _check_same_settings(composed, folder / "config.yaml", last)
    # Which devices there are, and an advertisement, at every start.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    seed_everything(config.seed, workers=True, verbose=False)
    # Before `instantiate` puts this machine's folders for ${asset:…}.
    tasks = json.dumps(OmegaConf.to_container(config.tasks, resolve=False))
    data = instantiate(config.data)
    module: NetworkModule = instantiate(config.module)
    callbacks: list[Callback] = [
        MetricsFile(folder / "metrics.jsonl", print),
        LastCheckpoint(last, folder / MODEL_FILE, tasks=tasks),
    ]
    if sys.stderr.isatty():
        callbacks.append(RichProgressBar())
    trainer: Trainer = instantiate(
        config.trainer,
        callbacks=callbacks,
        default_root_dir=str(folder),
        enable_progress_bar=sys.stderr.isatty(),
    )
    if trainer.world_size > 1 and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise ArgumentError(
            "trainer.devices",
            expected="1 with --multirun",
            got=trainer.world_size,
            remedy="Start one command for each combination.",
        )
    if trainer.is_global_zero:
        OmegaConf.save(composed, folder / "config.yaml")
    if config.start_from is not None and not last.exists():
        module.start_from(config.start_from)
    try:
        trainer.fit(module, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        print(f"\nstopped; the same command goes on from {last}", file=sys.stderr)
        return 130
    if trainer.is_global_zero:
        print(f"the model: {folder / MODEL_FILE}")
    return 0


def _check_same_settings(composed: DictConfig, saved: Path, last: Path) -> None:
    """Refuse to go on with another network, other data or another loss than a run began with."""
    if not (saved.exists() and last.exists()):
        return
    before, now = (
        {key: value for key, value in OmegaConf.to_container(config).items() if key not in _NOT_RESUMED}  # type: ignore[union-attr]  # a mapping
        for config in (OmegaConf.load(saved), composed)
    )
    changed = sorted(str(key) for key in {**before, **now} if before.get(key) != now.get(key))
    if changed:
        raise ArgumentError(
            "run_dir",
            expected=f"the folder of a run with the same {', '.join(changed)}, or a new one",
            got=str(saved.parent),
            remedy="Choose another run_dir= or name=, or remove the folder to begin anew.",
        )
