"""Optimizer, learning rate schedule and gradient checks of vcm's LightningModules."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from vcm.data import Batch
from vcm.errors import ArgumentError
from vcm.modules.distributed import average_over_processes
from vcm.modules.schedules import (
    LRSchedule,
    OptimizerFactory,
    SchedulerFactory,
    build_optimizer,
    checked_schedule,
)
from vcm.validation import check_between, check_positive

Schedule = Literal["plateau", "cosine"]
_PRECISIONS = ("32-true", "bf16-mixed")
_NEVER = 1 << 62
"""Epochs between Lightning's own steps of a plateau schedule: `on_validation_end` steps it, since Lightning
does so only after checkpoints of that epoch are written."""
_SCALED_PRECISION = "16-mixed"
"""Works with automatic optimization only, where Lightning unscales gradients before they are clipped."""


class OptimizedModule(LightningModule, ABC):
    """Base of modules: optimizer, learning rate schedule, and checked gradients.

    Uses automatic optimization unless a subclass sets `automatic_optimization = False`, so that Lightning's
    `gradient_clip_val`, `gradient_clip_algorithm`, `accumulate_grad_batches` and precision plugins apply.
    Gradients are averaged over processes here, so DDP does not have to search for unused parameters. A step
    whose gradients are all 0 is skipped. A gradient that is not finite ends the training before any weight
    changes.

    Args:
        learning_rate: Learning rate of the optimizer, above 0.
        max_norm: Largest norm of the gradient, above 0; larger ones are scaled down to it. The trainer's
            `gradient_clip_val` takes its place where it is set.
        schedule: "plateau" lowers the learning rate when the validation loss stops improving; "cosine"
            lowers it to 0 over the trainer's `max_epochs`. Ignored with a `scheduler`.
        plateau_epochs: Number of validations without improvement before the learning rate is lowered.
        plateau_factor: Factor by which it is lowered, from 0 to below 1.
        optimizer: Called with parameters and `lr`; returns the optimizer. None for `torch.optim.Adam`.
        scheduler: Called with the optimizer; returns the learning rate scheduler, which is stepped once an
            epoch. An `LRSchedule` says more. None for what `schedule` says.

    Raises:
        ArgumentError: If an argument is out of range.
    """

    network: nn.Module

    def __init__(
        self,
        *,
        learning_rate: float,
        max_norm: float,
        schedule: Schedule,
        plateau_epochs: int,
        plateau_factor: float,
        optimizer: OptimizerFactory | None,
        scheduler: SchedulerFactory | LRSchedule | None,
    ) -> None:
        super().__init__()
        self.learning_rate = check_positive("learning_rate", learning_rate)
        self.max_norm = check_positive("max_norm", max_norm)
        check_between("plateau_epochs", plateau_epochs, 0, math.inf)
        check_between("plateau_factor", plateau_factor, 0, 0.999)
        if schedule not in get_args(Schedule):
            raise ArgumentError("schedule", expected=" or ".join(get_args(Schedule)), got=schedule)
        if optimizer is not None and not callable(optimizer):
            raise ArgumentError(
                "optimizer", expected="null or a class or _partial_ of torch.optim", got=optimizer
            )
        self._make_optimizer: OptimizerFactory = Adam if optimizer is None else optimizer
        if scheduler is None and schedule == "plateau":
            scheduler = partial(ReduceLROnPlateau, patience=plateau_epochs, factor=plateau_factor)
        self._scheduler = checked_schedule(scheduler)  # None for schedule="cosine"
        self._image_ids: list[str] = []
        self._validates_every = 1

    def setup(self, stage: str) -> None:
        """Check the trainer's precision.

        Raises:
            ArgumentError: If it is one in which gradients would be clipped wrongly, or weights too coarse to
                learn.
        """
        precisions = (*_PRECISIONS, *([_SCALED_PRECISION] if self.automatic_optimization else []))
        if stage == "fit" and self.trainer.precision not in precisions:
            raise ArgumentError(
                "trainer.precision", expected=f"one of {', '.join(precisions)}", got=self.trainer.precision
            )

    def on_train_start(self) -> None:
        """Disable DDP's averaging of gradients, which this module does.

        Raises:
            ArgumentError: If the strategy splits gradients over processes.
        """
        strategy = self.trainer.strategy
        if isinstance(strategy.model, DistributedDataParallel):
            if self.automatic_optimization:  # Lightning sets the flag itself otherwise; see without_sync
                strategy.model.require_backward_grad_sync = False  # configure_gradient_clipping averages
        elif isinstance(strategy, ParallelStrategy) and self.trainer.world_size > 1:
            raise ArgumentError(
                "trainer.strategy",
                expected="ddp, which averages whole gradients",
                got=type(strategy).__name__,
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its scheduler; parameter groups after the first use Adam.

        Returns:
            Optimizers and schedulers, as Lightning takes them.

        Raises:
            ArgumentError: If a cosine schedule does not know where it ends, or what `optimizer` or
                `scheduler` builds is no optimizer or scheduler.
        """
        (main, learning_rate), *others = self.parameter_groups()
        optimizers = [
            build_optimizer(self._make_optimizer, main, learning_rate),
            *(Adam(part, lr=rate) for part, rate in others),
        ]
        self._validates_every = self.trainer.check_val_every_n_epoch or 1
        if self._scheduler is None:
            self._max_epochs()
            return optimizers, []
        built = self._scheduler.build(optimizers[0], self._num_steps)
        if not self.automatic_optimization:
            return optimizers, [built["scheduler"]]
        if isinstance(built["scheduler"], ReduceLROnPlateau):
            built["frequency"] = _NEVER
        return optimizers, [built]  # type: ignore[return-value]  # as documented

    @property
    def steps_per_batch(self) -> int:
        """Number of optimizer steps that `trainer.max_steps` counts for a batch."""
        return 1

    def _num_steps(self) -> int:
        """Return the number of batches of the training."""
        number = self.trainer.estimated_stepping_batches
        if not math.isfinite(number) or number < 1:
            raise ArgumentError(
                "trainer.max_steps",
                expected="a limit, or trainer.max_epochs, for a scheduler that is stepped with each batch",
                got=self.trainer.max_steps,
            )
        if self.automatic_optimization or self.trainer.max_steps == -1:
            return int(number)
        number = math.ceil(self.trainer.max_steps / self.steps_per_batch)
        epochs = self.trainer.max_epochs
        batches = self.trainer.num_training_batches * epochs if epochs not in (None, -1) else math.inf
        return int(min(number, batches))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rate of a cosine schedule by the share of the training that is done."""
        self._image_ids = list(batch.image_ids)
        if self._scheduler is None:
            epochs = self.trainer.current_epoch + batch_idx / self.trainer.num_training_batches
            factor = (1 + math.cos(math.pi * epochs / self._max_epochs())) / 2
            for group in self._every_optimizer()[0].param_groups:
                group["lr"] = factor * self.learning_rate

    def _max_epochs(self) -> int:
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ArgumentError(
                "trainer.max_epochs", expected="a whole number from 1 with schedule=cosine", got=epochs
            )
        return epochs

    def parameter_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """Return groups of parameters with their learning rates; gradients of the first group are clipped."""
        return [([p for p in self.network.parameters() if p.requires_grad], self.learning_rate)]

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer | LightningOptimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Average gradients over processes, check and clip them; drop them if all are 0.

        Args:
            optimizer: Whose gradients.
            gradient_clip_val: The trainer's; None clips the norm to `max_norm`.
            gradient_clip_algorithm: The trainer's, "norm" or "value".

        Raises:
            ArgumentError: If a gradient is not finite, in every process alike and before any weight changes.
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        average_over_processes([p.grad for p in parameters if p.grad is not None])
        own = gradient_clip_val is None
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_norm if own else math.inf)
        if not norm.isfinite():
            if getattr(self.trainer.precision_plugin, "scaler", None) is not None:
                return  # the scaler skips this step and lowers its scale
            raise ArgumentError(
                "gradient norm",
                expected="finite",
                got=float(norm),
                remedy=f"Lower learning_rate; the batch was {', '.join(self._image_ids)}.",
            )
        if norm == 0:  # else Adam would go on with the steps before
            optimizer.zero_grad(set_to_none=True)
        elif not own:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)  # type: ignore[arg-type]  # either

    def take_step(self) -> None:
        """Clip gradients and step all optimizers, with manual optimization."""
        optimizers = self._every_optimizer()
        self.configure_gradient_clipping(optimizers[0])
        has_gradient = any(p.grad is not None for g in optimizers[0].param_groups for p in g["params"])
        for optimizer in optimizers:
            if has_gradient:
                optimizer.step()
            optimizer.zero_grad()

    def without_sync(self) -> AbstractContextManager[None]:
        """Keep DDP from averaging gradients with manual optimization; `take_step` averages them."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """Step the scheduler with manual optimization, before checkpoints are written."""
        del outputs, batch, batch_idx
        scheduler = None if self.automatic_optimization else self.lr_schedulers()
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            return
        assert self._scheduler is not None
        per_batch = self._scheduler.steps_each_batch
        number = self.trainer.fit_loop.total_batch_idx if per_batch else self.trainer.current_epoch
        if (per_batch or self.trainer.is_last_batch) and (number + 1) % self._scheduler.frequency == 0:
            self.lr_scheduler_step(scheduler, None)

    def lr_scheduler_step(self, scheduler: LRScheduler | ReduceLROnPlateau, metric: Any | None) -> None:  # noqa: ANN401  # as Lightning has it
        """Step a scheduler.

        Args:
            scheduler: The scheduler.
            metric: Metric for `ReduceLROnPlateau`.

        Raises:
            ArgumentError: If its course, which a checkpoint holds, is over.
        """
        try:
            super().lr_scheduler_step(scheduler, metric)
        except ValueError as error:
            raise ArgumentError(
                "scheduler",
                expected="one that goes on for as many steps as the trainer",
                got=str(error),
                remedy="Use a new run_dir or name; of the schedulers here, cosine fits a longer training.",
            ) from error

    def _every_optimizer(self) -> Sequence[LightningOptimizer]:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def on_validation_end(self) -> None:
        """Step a plateau schedule with its metric.

        Raises:
            ArgumentError: If no such metric was logged.
        """
        if self.trainer.sanity_checking or self._scheduler is None:
            return
        scheduler = self.lr_schedulers()
        is_due = (self.trainer.current_epoch + 1) % self._validates_every == 0
        if not isinstance(scheduler, ReduceLROnPlateau) or not is_due:
            return
        metrics = self.trainer.callback_metrics
        if self._scheduler.monitor not in metrics:
            raise ArgumentError(
                "scheduler.monitor", expected=f"one of {', '.join(metrics)}", got=self._scheduler.monitor
            )
        self.lr_scheduler_step(scheduler, metrics[self._scheduler.monitor])
