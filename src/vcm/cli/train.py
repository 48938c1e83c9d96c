"""`vcm train`: compose a configuration, build what it names, train, write the model."""

from __future__ import annotations

import inspect
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import LightningDataModule, Trainer, seed_everything
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar, RichProgressBar
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from vcm.cli.job import run_job
from vcm.cli.memory import keep_freed_memory
from vcm.cli.resume import check_checkpoint, check_same_settings, locked, save_settings
from vcm.config import TrainConfig
from vcm.errors import ArgumentError, WeightsError
from vcm.files import printable
from vcm.modules.base import NetworkModule
from vcm.modules.progress import LastCheckpoint, MetricsFile

MODEL_FILE = "model.safetensors"


def run(arguments: Sequence[str]) -> int:
    """Train; with `--multirun`, once for every combination."""
    return run_job("train", arguments, train)


def train(composed: DictConfig) -> int:
    """Build and run the training that a composed configuration describes; goes on where it stopped."""
    config = OmegaConf.merge(OmegaConf.structured(TrainConfig), composed)
    assert isinstance(config, DictConfig)
    keep_freed_memory()
    folder = Path(HydraConfig.get().runtime.output_dir)
    # Which devices there are, and an advertisement, at every start.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if config.trainer.get("fast_dev_run"):
        return _try_out(config, folder)
    is_main = getattr(rank_zero_only, "rank", 0) == 0
    with locked(folder) if is_main else nullcontext():
        return _train(config, composed, folder, is_main=is_main)


def _train(config: DictConfig, composed: DictConfig, folder: Path, *, is_main: bool) -> int:
    last, model = folder / "checkpoints" / "last.ckpt", folder / MODEL_FILE
    resumes = last.exists()
    if is_main and resumes:
        check_checkpoint(last)
        check_same_settings(composed, folder, list(HydraConfig.get().overrides.task))
    # Before `instantiate` puts this machine's folders for ${asset:…}.
    tasks = json.dumps(OmegaConf.to_container(config.tasks, resolve=False))
    keeper = LastCheckpoint(last, model, tasks=tasks)
    module, data, trainer = _build(config, [MetricsFile(folder / "metrics.jsonl", print), keeper], folder)
    if trainer.world_size > 1 and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise ArgumentError(
            "trainer.devices",
            expected="1 with --multirun",
            got=trainer.world_size,
            remedy="Start one command for each combination.",
        )
    if trainer.is_global_zero and not resumes:
        save_settings(composed, folder)
    if config.start_from is not None and not resumes:
        module.start_from(config.start_from)
    if trainer.is_global_zero and "cpu_precision" in _unresolved(config.trainer, "precision"):
        print(f"precision: {trainer.precision}, for this CPU; trainer.precision=… chooses another")
    try:
        _fit(trainer, module, data, last if resumes else None)
    except SystemExit:  # what Lightning makes of Ctrl-C
        print(f"\nstopped; the same command goes on from {last}", file=sys.stderr)
        return 130
    if trainer.is_global_zero:
        save_settings(composed, folder)  # of a resumed run only now: the module compares weights, too
        if not keeper.trained:
            print(
                f"nothing left to train: {folder} has done its {trainer.current_epoch} epochs; a larger "
                "trainer.max_epochs, max_steps or max_time goes on"
            )
        if not model.is_file():
            raise WeightsError(f"{model} was not written: the training ended before its first step.")
        print(f"the model: {printable(model)}")
    return 0


def _try_out(config: DictConfig, folder: Path) -> int:
    """A few batches through everything, from the start, that leave nothing behind."""
    module, data, trainer = _build(config, [MetricsFile(None, print)], folder)
    if config.start_from is not None:
        module.start_from(config.start_from)
    _fit(trainer, module, data, None)
    if trainer.is_global_zero:
        with suppress(OSError):
            folder.rmdir()  # Hydra made it; of a run it is not empty
        print("fast_dev_run: training and validation ran; nothing was saved")
    return 0


def _build(
    config: DictConfig, callbacks: list[Callback], folder: Path
) -> tuple[NetworkModule, LightningDataModule, Trainer]:
    """The module, the data and the trainer, which has the user's callbacks besides vcm's."""
    seed_everything(config.seed, workers=True, verbose=False)
    data: LightningDataModule = instantiate(config.data)
    module: NetworkModule = instantiate(config.module)
    callbacks += _user_callbacks(config.trainer)
    settings: dict[str, Any] = {"callbacks": callbacks}
    settings["default_root_dir"] = config.trainer.get("default_root_dir") or str(folder)
    bars = any(isinstance(callback, ProgressBar) for callback in callbacks)
    shows = bars or config.trainer.get("enable_progress_bar", sys.stderr.isatty())
    settings["enable_progress_bar"] = shows
    if shows and not bars and sys.stderr.isatty():
        callbacks.append(RichProgressBar())
    if any(isinstance(callback, Checkpoint) for callback in callbacks):
        settings["enable_checkpointing"] = True
    plan = config.trainer.copy()
    with open_dict(plan):
        plan.pop("callbacks", None)
    return module, data, instantiate(plan, **settings)


def _unresolved(plan: DictConfig, key: str) -> str:
    """A value as it stands in the configuration, before interpolation."""
    content = OmegaConf.to_container(plan, resolve=False)
    return str(content.get(key)) if isinstance(content, dict) else ""


def _user_callbacks(plan: DictConfig) -> list[Callback]:
    """The callbacks that trainer.callbacks names: a list, a mapping by name, or one.

    Raises:
        ArgumentError: If one of them is no Lightning callback.
    """
    wanted = plan.get("callbacks")
    if wanted is None:
        return []
    if isinstance(wanted, DictConfig):
        wanted = [wanted] if "_target_" in wanted else [part for part in wanted.values() if part is not None]
    elif not isinstance(wanted, ListConfig):
        raise ArgumentError("trainer.callbacks", expected="a list of {_target_: …}", got=wanted)
    made = [instantiate(part) for part in wanted]
    for callback in made:
        if not isinstance(callback, Callback):
            raise ArgumentError(
                "trainer.callbacks",
                expected="a list of {_target_: …} that give lightning.pytorch.callbacks.Callback objects",
                got=callback,
            )
    return made


def _fit(trainer: Trainer, module: NetworkModule, data: LightningDataModule, checkpoint: Path | None) -> None:
    """Call `trainer.fit`, with tensors alone from the checkpoint where Lightning offers that (from 2.6 on).

    Raises:
        ArgumentError: If a callback watches a metric that is never logged.
    """
    options: dict[str, Any] = {"ckpt_path": None if checkpoint is None else str(checkpoint)}
    if "weights_only" in inspect.signature(trainer.fit).parameters:
        options["weights_only"] = True
    try:
        trainer.fit(module, data, **options)
    except RuntimeError as error:
        if "Early stopping conditioned on metric" not in str(error):
            raise
        named = ", ".join(sorted(trainer.callback_metrics))
        raise ArgumentError(
            "trainer.callbacks",
            expected=f"EarlyStopping with a monitor among {named}",
            got=str(error).partition("`")[2].partition("`")[0],
        ) from error
