"""What every LightningModule here shares: steps over all processes, a plateau schedule, exact resuming."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from vcm.data import Batch
from vcm.errors import ArgumentError
from vcm.losses.rate_distortion import check_weight
from vcm.modules.checks import check_between
from vcm.modules.codec_loop import CodecLoop
from vcm.modules.processes import average_over_processes
from vcm.modules.randomness import RandomState, random_state, restore_random_state
from vcm.modules.schedules import LRSchedule, OptimizerFactory, SchedulerFactory, checked_schedule
from vcm.nn.content import state_sha256

Schedule = Literal["plateau", "cosine"]
_PRECISIONS = ("32-true", "bf16-mixed")
_NEVER = 1 << 62
"""Epochs between Lightning's own steps of a plateau schedule: `on_validation_end` steps it, since Lightning
does so only after checkpoints of that epoch are written."""
_SCALED_PRECISION = "16-mixed"
"""Works with automatic optimization only, where Lightning unscales gradients before they are clipped."""


class NetworkModule(LightningModule, ABC):
    """Base of vcm's LightningModules: optimizer, learning rate schedule, gradient checks, exact resuming.

    Uses automatic optimization unless a subclass sets `automatic_optimization = False`, so that Lightning's
    `gradient_clip_val`, `gradient_clip_algorithm`, `accumulate_grad_batches` and precision plugins apply.
    Gradients are averaged over processes here, so that DDP needs no search for unused parameters. A step
    whose gradients are all 0 is skipped, and one that is not finite ends the training before any weight
    changes. Random states are part of checkpoints: a resumed run takes the same next step. Frozen networks
    are not part of them, and a resumed run must have the same ones.

    Args:
        network: The network to train.
        frozen: Networks that training uses without changing them.
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
        ArgumentError: If an argument is out of its range.
    """

    loop: CodecLoop | None = None
    """The codec in the loop, where training has one."""

    def __init__(
        self,
        network: nn.Module,
        frozen: Iterable[nn.Module] = (),
        *,
        learning_rate: float = 1e-4,
        max_norm: float = 1.0,
        schedule: Schedule = "plateau",
        plateau_epochs: int = 20,
        plateau_factor: float = 0.5,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | LRSchedule | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.learning_rate = check_weight("learning_rate", learning_rate)
        self.max_norm = check_weight("max_norm", max_norm)
        check_between("plateau_epochs", plateau_epochs, 0, math.inf)
        check_between("plateau_factor", plateau_factor, 0, 0.999)
        if schedule not in get_args(Schedule):
            raise ArgumentError("schedule", expected=" or ".join(get_args(Schedule)), got=schedule)
        self.schedule = schedule
        self.plateau = (plateau_epochs, plateau_factor)
        if optimizer is not None and not callable(optimizer):
            raise ArgumentError(
                "optimizer", expected="null or a class or _partial_ of torch.optim", got=optimizer
            )
        self._make_optimizer: OptimizerFactory = Adam if optimizer is None else optimizer
        self._scheduler = checked_schedule(scheduler)
        self._frozen = list(frozen)  # no part of this module's checkpoints
        self._frozen_sha256: list[str] = []
        self._random_state: RandomState | None = None
        self._image_ids: list[str] = []
        self._validates_every = 1

    @abstractmethod
    def save_model(self, path: Path, **notes: str) -> None:
        """Write the network to a file of its own.

        Args:
            path: The file; its folder must exist.
            notes: What the file is to say besides.
        """

    @abstractmethod
    def start_from(self, path: str | Path) -> None:
        """Take over the weights of a model file.

        Raises:
            WeightsError: If it cannot be read, or is of another architecture.
        """

    # --- steps --------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer and its scheduler; groups of parameters after the first have Adam.

        Returns:
            Optimizers and schedulers, as Lightning takes them.

        Raises:
            ArgumentError: If a cosine schedule does not know where it ends, or what `optimizer` or
                `scheduler` builds is no optimizer or scheduler.
        """
        (main, learning_rate), *others = self.parameter_groups()
        optimizers = [self._optimizer(main, learning_rate), *(Adam(part, lr=rate) for part, rate in others)]
        self._validates_every = self.trainer.check_val_every_n_epoch or 1
        if self._scheduler is None and self.schedule == "cosine":
            self._max_epochs()
            return optimizers, []
        if self._scheduler is None:
            patience, factor = self.plateau
            plateau = partial(ReduceLROnPlateau, patience=patience, factor=factor)
            self._scheduler = LRSchedule(plateau)
        built = self._scheduler.build(optimizers[0], self._num_steps)
        if not self.automatic_optimization:
            return optimizers, [built["scheduler"]]
        if isinstance(built["scheduler"], ReduceLROnPlateau):
            built["frequency"] = _NEVER
        return optimizers, [built]  # type: ignore[return-value]  # as documented

    def _optimizer(self, parameters: list[nn.Parameter], learning_rate: float) -> Optimizer:
        try:
            optimizer = self._make_optimizer(parameters, lr=learning_rate)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                "optimizer", expected="one that takes parameters and lr", got=f"{error}"
            ) from error
        if not isinstance(optimizer, Optimizer):
            raise ArgumentError(
                "optimizer", expected="one that builds a torch.optim.Optimizer", got=optimizer
            )
        return optimizer

    @property
    def steps_per_batch(self) -> int:
        """Number of optimizer steps that `trainer.max_steps` counts for a batch."""
        return 1

    def _num_steps(self) -> int:
        """Number of times that a scheduler of every batch is stepped in the whole training."""
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
        """Set the first group's learning rate, in a cosine schedule, by how much of the training is done."""
        self._image_ids = list(batch.image_ids)
        if self._scheduler is None and self.schedule == "cosine":
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
        """Parameters with their learning rate; gradients of the first group are clipped."""
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
        gradients = [p.grad for p in parameters if p.grad is not None]
        average_over_processes(gradients)
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
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
        elif gradient_clip_val is None:
            torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)  # type: ignore[arg-type]  # either

    def take_step(self) -> None:
        """With manual optimization: clip gradients as above and step every optimizer."""
        optimizers = self._every_optimizer()
        self.configure_gradient_clipping(optimizers[0])
        has_gradient = any(p.grad is not None for g in optimizers[0].param_groups for p in g["params"])
        for optimizer in optimizers:
            if has_gradient:
                optimizer.step()
            optimizer.zero_grad()

    def without_sync(self) -> AbstractContextManager[None]:
        """With manual optimization: keep DDP from averaging gradients; `take_step` does."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def on_train_batch_end(self, outputs: object, batch: Batch, batch_idx: int) -> None:
        """With manual optimization, step a scheduler of batches or epochs, before checkpoints are written."""
        del outputs, batch, batch_idx
        scheduler = None if self.automatic_optimization else self.lr_schedulers()
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            return
        assert self._scheduler is not None
        per_batch = self._scheduler.steps_each_batch
        number = self.trainer.fit_loop.total_batch_idx if per_batch else self.trainer.current_epoch
        if (per_batch or self.trainer.is_last_batch) and (number + 1) % self._scheduler.frequency == 0:
            scheduler.step()

    def _every_optimizer(self) -> Sequence[LightningOptimizer]:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def on_validation_end(self) -> None:
        """Step a plateau schedule with the metric that it follows.

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
        scheduler.step(metrics[self._scheduler.monitor])

    # --- Lightning's plumbing -----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Move the frozen networks to this process's device, and on a CPU lay channels last.

        There convolutions of few channels take a fifth to a third less time so.

        Raises:
            ArgumentError: If the trainer's precision is one in which gradients would be clipped wrongly, or
                weights too coarse to learn.
        """
        precisions = (*_PRECISIONS, *([_SCALED_PRECISION] if self.automatic_optimization else []))
        if stage == "fit" and self.trainer.precision not in precisions:
            raise ArgumentError(
                "trainer.precision", expected=f"one of {', '.join(precisions)}", got=self.trainer.precision
            )
        device = self.trainer.strategy.root_device  # self.device still is the CPU
        for network in self._frozen:
            network.to(device)
        if device.type == "cpu":
            for network in (self.network, *self._frozen):
                network.to(memory_format=torch.channels_last)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the random generators' states, so that a resumed run takes the same next step."""
        checkpoint["random_state"] = random_state()
        if self.loop is not None:
            checkpoint["codec_loop"] = self.loop.state_dict()
        checkpoint["frozen_sha256"] = self._frozen_sha256

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the states until training starts: setting up draws random numbers too."""
        self._random_state = checkpoint.get("random_state")
        if self.loop is not None and "codec_loop" in checkpoint:
            self.loop.load_state_dict(checkpoint["codec_loop"])
        self._frozen_sha256 = checkpoint.get("frozen_sha256", [])

    def on_train_start(self) -> None:
        """Go on with the random numbers that were next when the checkpoint was saved.

        Raises:
            ArgumentError: If the frozen networks have other weights than they had then.
        """
        before = self._frozen_sha256
        self._frozen_sha256 = [state_sha256(network.state_dict()) for network in self._frozen]
        if before and before != self._frozen_sha256:
            names = ", ".join(type(network).__name__ for network in self._frozen)
            raise ArgumentError(
                "run_dir",
                expected=f"the folder of a run with the same weights of what is frozen ({names})",
                got="one with others",
                remedy="Choose another run_dir= or name=, or remove the folder to begin anew.",
            )
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
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None


def crops_of(batch: Batch) -> Tensor:
    """A training batch's pictures, (N, 3, H, W).

    Raises:
        ArgumentError: If they are of several sizes.
    """
    if not isinstance(batch.images, Tensor):
        raise ArgumentError("batch", expected="crops of one size", got="pictures of several sizes")
    return batch.images
