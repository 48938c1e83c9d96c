"""Optimizer and learning rate scheduler factories."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from vcm.errors import ArgumentError
from vcm.validation import check_whole

OptimizerFactory = Callable[..., Optimizer]
"""Called with parameters and `lr`."""
SchedulerFactory = Callable[..., LRScheduler | ReduceLROnPlateau]
"""Called with the optimizer, and with `total_steps` if it takes that argument and does not have it."""
Interval = Literal["epoch", "step"]
_FIRST_SHARE = 1e-3
"""Share of the learning rate at the first warm-up step."""


@dataclass(frozen=True)
class LRSchedule:
    """A learning rate scheduler and its interval.

    `ReduceLROnPlateau` is stepped after each validation. A scheduler with an unset `total_steps`, such as
    `torch.optim.lr_scheduler.OneCycleLR` or `cosine`, receives the number of batches of the training and is
    stepped after every batch.

    Args:
        scheduler: Called with the optimizer; returns a scheduler of torch.
        interval: "epoch" or "step"; None for "step" if the scheduler takes `total_steps`, else "epoch".
        frequency: Number of intervals between two steps, at least 1.
        monitor: Metric that `ReduceLROnPlateau` follows.

    Raises:
        ArgumentError: If an argument is invalid.
    """

    scheduler: SchedulerFactory
    interval: Interval | None = None
    frequency: int = 1
    monitor: str = "val/loss"

    def __post_init__(self) -> None:
        if not callable(self.scheduler):
            raise ArgumentError(
                "scheduler",
                expected="null or a class or _partial_ of torch.optim.lr_scheduler",
                got=self.scheduler,
            )
        if self.interval is not None and self.interval not in get_args(Interval):
            raise ArgumentError("scheduler.interval", expected="epoch or step", got=self.interval)
        check_whole("scheduler.frequency", self.frequency, 1, 1 << 31)

    def build(self, optimizer: Optimizer, num_steps: Callable[[], int]) -> dict[str, Any]:
        """Build the scheduler.

        Args:
            optimizer: The optimizer.
            num_steps: Returns the number of batches of the training.

        Returns:
            Lightning's `lr_scheduler_config`.

        Raises:
            ArgumentError: If the scheduler rejects its options, or is not a scheduler.
        """
        options = {"total_steps": num_steps()} if _lacks_total_steps(self.scheduler) else {}
        try:
            scheduler = self.scheduler(optimizer, **options)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                "scheduler", expected="a scheduler that takes an optimizer", got=str(error)
            ) from error
        if not isinstance(scheduler, (LRScheduler, ReduceLROnPlateau)):
            raise ArgumentError(
                "scheduler", expected="a factory of a torch.optim.lr_scheduler scheduler", got=scheduler
            )
        interval = "step" if self.steps_each_batch else "epoch"
        built = {"scheduler": scheduler, "interval": interval, "frequency": self.frequency}
        return built | ({"monitor": self.monitor} if isinstance(scheduler, ReduceLROnPlateau) else {})

    @property
    def steps_each_batch(self) -> bool:
        """Whether the scheduler is stepped after every batch instead of every epoch."""
        if self.interval is None:
            return _lacks_total_steps(self.scheduler)
        return self.interval == "step"


def build_optimizer(
    optimizer: OptimizerFactory, parameters: list[nn.Parameter], learning_rate: float
) -> Optimizer:
    """Build an optimizer.

    Raises:
        ArgumentError: If it rejects its options, or is not an optimizer.
    """
    try:
        built = optimizer(parameters, lr=learning_rate)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            "optimizer", expected="an optimizer that takes parameters and lr", got=str(error)
        ) from error
    if not isinstance(built, Optimizer):
        raise ArgumentError("optimizer", expected="a factory of a torch.optim.Optimizer", got=built)
    return built


def checked_schedule(scheduler: SchedulerFactory | LRSchedule | None) -> LRSchedule | None:
    """Wrap a plain factory in an `LRSchedule`."""
    return scheduler if scheduler is None or isinstance(scheduler, LRSchedule) else LRSchedule(scheduler)


def cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LRScheduler:
    """Linear warm-up from a thousandth of the learning rate, then cosine annealing to 0.

    A run resumed with another number of steps continues at its step of the new schedule.

    Args:
        optimizer: The optimizer.
        total_steps: Number of steps of the training, warm-up included.
        warmup_steps: Number of warm-up steps, from 0 to below `total_steps`.

    Raises:
        ArgumentError: If a number is out of its range.
    """
    check_whole("total_steps", total_steps, 1, 1 << 31)
    check_whole("warmup_steps", warmup_steps, 0, total_steps - 1)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return _FIRST_SHARE + (1 - _FIRST_SHARE) * step / warmup_steps
        done = (step - warmup_steps) / (total_steps - warmup_steps)
        return (1 + math.cos(math.pi * min(1.0, done))) / 2

    return LambdaLR(optimizer, factor)  # whose checkpoints hold the step alone


def _lacks_total_steps(scheduler: SchedulerFactory) -> bool:
    """Whether the scheduler needs `total_steps` from the trainer."""
    if "steps_per_epoch" in getattr(scheduler, "keywords", {}):
        return False  # OneCycleLR's other way to say it
    try:
        parameters = inspect.signature(scheduler).parameters
    except (TypeError, ValueError):
        return False
    parameter = parameters.get("total_steps")
    # A partial shows what it has as a keyword-only parameter with a default.
    return parameter is not None and parameter.default in (None, inspect.Parameter.empty)
