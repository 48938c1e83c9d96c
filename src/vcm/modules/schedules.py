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
"""Called with the optimizer, and with `total_steps` if it takes that and has none."""
Interval = Literal["epoch", "step"]
_FIRST_SHARE = 1e-3
"""Of the learning rate, at the first step of a warm-up."""


@dataclass(frozen=True)
class LRSchedule:
    """A learning rate scheduler, and when Lightning steps it.

    A `ReduceLROnPlateau` is stepped with each validation. A scheduler that takes `total_steps` and was given
    none, such as `torch.optim.lr_scheduler.OneCycleLR` or `cosine`, gets the number of batches of the whole
    training, and is stepped with every batch.

    Args:
        scheduler: Called with the optimizer; returns a scheduler of torch.
        interval: "epoch" or "step"; None for "step" if the scheduler takes `total_steps`, else "epoch".
        frequency: Number of intervals between two steps, from 1.
        monitor: Name of the metric that `ReduceLROnPlateau` follows.

    Raises:
        ArgumentError: If an argument is out of its range.
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
            optimizer: Whose learning rates it sets.
            num_steps: Gives the number of steps of the whole training.

        Returns:
            Lightning's `lr_scheduler_config`.

        Raises:
            ArgumentError: If the scheduler refuses its options, or is none.
        """
        options = {"total_steps": num_steps()} if _lacks_total_steps(self.scheduler) else {}
        try:
            scheduler = self.scheduler(optimizer, **options)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                "scheduler", expected="one that takes an optimizer", got=str(error)
            ) from error
        if not isinstance(scheduler, (LRScheduler, ReduceLROnPlateau)):
            raise ArgumentError(
                "scheduler", expected="one that builds a scheduler of torch.optim.lr_scheduler", got=scheduler
            )
        interval = "step" if self.steps_each_batch else "epoch"
        built = {"scheduler": scheduler, "interval": interval, "frequency": self.frequency}
        return built | ({"monitor": self.monitor} if isinstance(scheduler, ReduceLROnPlateau) else {})

    @property
    def steps_each_batch(self) -> bool:
        """Whether the scheduler is stepped with each batch, and not with each epoch."""
        if self.interval is None:
            return _lacks_total_steps(self.scheduler)
        return self.interval == "step"


def build_optimizer(
    optimizer: OptimizerFactory, parameters: list[nn.Parameter], learning_rate: float
) -> Optimizer:
    """Build an optimizer.

    Raises:
        ArgumentError: If it refuses its options, or is none.
    """
    try:
        built = optimizer(parameters, lr=learning_rate)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            "optimizer", expected="one that takes parameters and lr", got=str(error)
        ) from error
    if not isinstance(built, Optimizer):
        raise ArgumentError("optimizer", expected="one that builds a torch.optim.Optimizer", got=built)
    return built


def checked_schedule(scheduler: SchedulerFactory | LRSchedule | None) -> LRSchedule | None:
    """Wrap a plain factory."""
    return scheduler if scheduler is None or isinstance(scheduler, LRSchedule) else LRSchedule(scheduler)


def cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0) -> LRScheduler:
    """Raise the learning rate linearly from a thousandth of it, then lower it to 0 along a cosine.

    A resumed training with another number of steps goes on at its place in the new course.

    Args:
        optimizer: Whose learning rates are set.
        total_steps: Number of steps of the whole training.
        warmup_steps: Number of them in which the learning rate rises, from 0 to below `total_steps`.

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
    """Whether the number of steps must come from the trainer."""
    if "steps_per_epoch" in getattr(scheduler, "keywords", {}):
        return False  # OneCycleLR's other way to say it
    try:
        parameters = inspect.signature(scheduler).parameters
    except (TypeError, ValueError):
        return False
    parameter = parameters.get("total_steps")
    # A partial shows what it has as a keyword-only parameter with a default.
    return parameter is not None and parameter.default in (None, inspect.Parameter.empty)
