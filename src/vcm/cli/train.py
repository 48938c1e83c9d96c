"""`vcm train`: compose a configuration, build its parts, train, write the model."""

from __future__ import annotations

import inspect
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    LearningRateMonitor,
    ProgressBar,
    RichProgressBar,
)
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from vcm.cli.devices import keep_freed_memory
from vcm.cli.job import run_job
from vcm.cli.objectives import check_metric_objective, metric_objective
from vcm.cli.resume import check_checkpoint, check_same_settings, locked, save_settings
from vcm.cli.sweeps import JobResult
from vcm.config import MetricObjective, TrainConfig
from vcm.errors import ArgumentError, WeightsError
from vcm.files import printable
from vcm.modules.callbacks import FinalValidation, LastCheckpoint, MetricsFile

MODEL_FILE = "model.safetensors"
LAST_CHECKPOINT = "checkpoints/last.ckpt"
METRICS_FILE = "metrics.jsonl"
T = TypeVar("T")
_EXPECTED_WARNINGS = (
    "Precision .* is not supported by the model summary",
    "Checkpoint directory .* exists and is not empty",
    "You requested to overfit but enabled train dataloader shuffling",
)
"""Warnings of Lightning that vcm's own configurations trigger on purpose."""


def run(arguments: Sequence[str]) -> int:
    """Train; with `--multirun`, once per combination."""
    return run_job("train", arguments, _run_once)


def _run_once(composed: DictConfig) -> JobResult:
    plan = dict(OmegaConf.merge(OmegaConf.structured(MetricObjective), composed.get("objective", {})))
    check_metric_objective(plan)
    status = train(composed)
    if composed.trainer.get("fast_dev_run"):
        return JobResult(status, is_kept=False)
    folder = Path(HydraConfig.get().runtime.output_dir)
    written = [name for name in (MODEL_FILE, LAST_CHECKPOINT) if (folder / name).is_file()]
    objective = metric_objective(folder / METRICS_FILE, plan) if status == 0 else None
    return JobResult(status, objective, tuple(written))


def train(composed: DictConfig) -> int:
    """Build and run the training of a composed configuration; resume from its last checkpoint, if any."""
    config = OmegaConf.merge(OmegaConf.structured(TrainConfig), composed)
    assert isinstance(config, DictConfig)
    keep_freed_memory()
    folder = Path(HydraConfig.get().runtime.output_dir)
    # Lightning lists the devices and advertises a product at every start.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    if config.trainer.get("fast_dev_run"):
        return _try_out(config, folder)
    is_main = getattr(rank_zero_only, "rank", 0) == 0
    with locked(folder) if is_main else nullcontext():
        return _train(config, composed, folder, is_main=is_main)


def _train(config: DictConfig, composed: DictConfig, folder: Path, *, is_main: bool) -> int:
    last, model = folder / LAST_CHECKPOINT, folder / MODEL_FILE
    resumes = last.exists()
    if is_main and resumes:
        check_checkpoint(last)
        check_same_settings(composed, folder, list(HydraConfig.get().overrides.task))
    # Read before `instantiate` resolves ${asset:…} to folders of this machine.
    tasks = json.dumps(OmegaConf.to_container(config.tasks, resolve=False))
    keeper = LastCheckpoint(last, model, tasks=tasks)
    module, data, trainer = _build(config, [MetricsFile(folder / METRICS_FILE, print), keeper], folder)
    if trainer.world_size > 1 and HydraConfig.get().mode is RunMode.MULTIRUN:
        raise ArgumentError(
            "trainer.devices",
            expected="1 with --multirun",
            got=trainer.world_size,
            remedy="Start a separate command for each combination.",
        )
    if trainer.is_global_zero and not resumes:
        save_settings(composed, folder)
    if config.start_from is not None and not resumes:
        _start_from(module, config.start_from)
    if trainer.is_global_zero and "cpu_precision" in _unresolved(config.trainer, "precision"):
        print(f"precision: {trainer.precision}, chosen for this CPU; set trainer.precision=… to change it")
    try:
        _fit(trainer, module, data, last if resumes else None)
    except SystemExit:  # Lightning raises it on Ctrl-C
        print(f"\nstopped; run the same command to resume from {last}", file=sys.stderr)
        return 130
    if trainer.is_global_zero:
        save_settings(composed, folder)  # of a resumed run only now: the module has compared the weights
        if not keeper.trained:
            print(
                f"nothing left to train: {folder} has completed its {trainer.current_epoch} epochs; increase "
                "trainer.max_epochs, max_steps or max_time to continue"
            )
        written = model if hasattr(module, "save_model") else last
        if not written.is_file():
            raise WeightsError(f"{written} was not written: the training ended before its first step.")
        print(f"the {'model' if written is model else 'checkpoint'}: {printable(written)}")
    return 0


def _start_from(module: LightningModule, path: str) -> None:
    if not callable(start_from := getattr(module, "start_from", None)):
        raise ArgumentError(
            "start_from",
            expected=f"null for {type(module).__name__}, which has no start_from(path)",
            got=path,
        )
    start_from(path)


def _try_out(config: DictConfig, folder: Path) -> int:
    """Run a few batches of training and validation from the start, without saving anything."""
    module, data, trainer = _build(config, [MetricsFile(None, print)], folder)
    if config.start_from is not None:
        _start_from(module, config.start_from)
    _fit(trainer, module, data, None)
    if trainer.is_global_zero:
        with suppress(OSError):
            folder.rmdir()  # Hydra created it; the folder of a real run is not empty and stays
        print("fast_dev_run: training and validation ran; nothing was saved")
    return 0


def _build(
    config: DictConfig, callbacks: list[Callback], folder: Path
) -> tuple[LightningModule, LightningDataModule, Trainer]:
    """Build the module, the datamodule and the trainer with vcm's and the user's callbacks and loggers.

    Raises:
        ArgumentError: If one of them has the wrong type, or the module does not support the trainer's
            settings.
    """
    seed_everything(config.seed, workers=True, verbose=False)
    data = instantiate(config.data)
    if not isinstance(data, LightningDataModule):
        raise ArgumentError("data", expected="a lightning.LightningDataModule", got=data)
    # Plain lists and mappings, so that the hyperparameters saved by a module can be loaded again.
    converted = {} if "_convert_" in config.module else {"_convert_": "all"}
    module = instantiate(config.module, **converted)
    _check_module(module, config.trainer)
    loggers = [
        _instance(f"logger.{name}", Logger, part)  # type: ignore[type-abstract]  # any subclass
        for name, part in (config.logger or {}).items()
        if part is not None
    ]
    callbacks += _user_callbacks(config, has_logger=bool(loggers or config.trainer.get("logger")))
    settings: dict[str, Any] = {"callbacks": callbacks}
    if loggers:
        settings["logger"] = loggers
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
    trainer: Trainer = instantiate(plan, **settings)
    trainer.callbacks.append(FinalValidation())  # type: ignore[attr-defined]  # after Lightning's own Timer
    return module, data, trainer


def _check_module(module: object, plan: DictConfig) -> None:
    """Raise ArgumentError unless Lightning can train the module with the trainer's settings."""
    if not isinstance(module, LightningModule):
        raise ArgumentError("module", expected="a lightning.LightningModule", got=module)
    missing = [
        name
        for name in ("training_step", "configure_optimizers")
        if getattr(type(module), name) is getattr(LightningModule, name)
    ]
    if missing:
        raise ArgumentError(
            "module", expected=f"a module that defines {' and '.join(missing)}", got=type(module).__name__
        )
    if not module.automatic_optimization:
        for name, default in (("gradient_clip_val", None), ("accumulate_grad_batches", 1)):
            if (given := plan.get(name, default)) not in (None, default):
                raise ArgumentError(
                    f"trainer.{name}",
                    expected=f"{default or 'null'} for {type(module).__name__}, "
                    "which uses manual optimization",
                    got=given,
                    remedy="Use module.max_norm." if default is None else "Use data.batch_size.",
                )


def _unresolved(plan: DictConfig, key: str) -> str:
    """Return a value of the configuration before interpolation."""
    content = OmegaConf.to_container(plan, resolve=False)
    return str(content.get(key)) if isinstance(content, dict) else ""


def _user_callbacks(config: DictConfig, *, has_logger: bool) -> list[Callback]:
    """Build the callbacks of the group `callbacks` and of `trainer.callbacks` (a list, a mapping, or one).

    Raises:
        ArgumentError: If one of them is not a Lightning callback.
    """
    made = []
    for name, part in (config.callbacks or {}).items():
        callback = None if part is None else _instance(f"callbacks.{name}", Callback, part)
        if isinstance(callback, LearningRateMonitor) and not has_logger:
            print(f"callbacks.{name}: skipped, because there is no logger; add one with logger=csv")
        elif callback is not None:
            made.append(callback)
    wanted = config.trainer.get("callbacks")
    if wanted is None:
        return made
    if isinstance(wanted, DictConfig):
        wanted = [wanted] if "_target_" in wanted else [part for part in wanted.values() if part is not None]
    elif not isinstance(wanted, ListConfig):
        raise ArgumentError("trainer.callbacks", expected="a list of {_target_: …}", got=wanted)
    return [*made, *(_instance("trainer.callbacks", Callback, part) for part in wanted)]


def _instance(name: str, kind: type[T], plan: object) -> T:
    """Instantiate a plan and check that the object is a `kind`."""
    made = instantiate(plan) if isinstance(plan, DictConfig) and "_target_" in plan else plan
    if not isinstance(made, kind):
        raise ArgumentError(
            name,
            expected=f"{{_target_: …}} that creates a {kind.__module__.rpartition('.')[0]}.{kind.__name__}",
            got=made,
        )
    return made


def _fit(
    trainer: Trainer, module: LightningModule, data: LightningDataModule, checkpoint: Path | None
) -> None:
    """Call `trainer.fit`; load the checkpoint with `weights_only=True` if Lightning can (from 2.6 on).

    Raises:
        ArgumentError: If EarlyStopping monitors a metric that is never logged.
    """
    options: dict[str, Any] = {"ckpt_path": None if checkpoint is None else str(checkpoint)}
    if "weights_only" in inspect.signature(trainer.fit).parameters:
        options["weights_only"] = True
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            trainer.fit(module, data, **options)
    except RuntimeError as error:
        if "Early stopping conditioned on metric" not in str(error):
            raise
        named = ", ".join(sorted(trainer.callback_metrics))
        raise ArgumentError(
            "trainer.callbacks",
            expected=f"an EarlyStopping that monitors one of {named}",
            got=str(error).partition("`")[2].partition("`")[0],
        ) from error
