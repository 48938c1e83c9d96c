"""What every LightningModule here shares: steps over all processes, a plateau schedule, exact resuming."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vcm.data import Batch
from vcm.errors import ArgumentError
from vcm.losses.rate_distortion import check_weight
from vcm.modules.checks import check_between
from vcm.modules.codec_loop import CodecLoop
from vcm.modules.processes import average_over_processes
from vcm.modules.randomness import RandomState, random_state, restore_random_state
from vcm.nn.content import state_sha256

Schedule = Literal["plateau", "cosine"]
_PRECISIONS = ("32-true", "bf16-mixed")


class NetworkModule(LightningModule, ABC):
    """Trains a network with Adam, whose steps are taken by hand.

    Gradients are averaged over processes here, so that DDP needs no search for unused parameters, and are
    clipped before each step. Works in float32 and "bf16-mixed", on one device or under DDP. Random numbers
    are part of checkpoints: a resumed run takes the same next step. Frozen networks are not; a run is resumed
    with the same ones only.

    Args:
        network: What is trained.
        frozen: Networks that training only uses.
        learning_rate: Of Adam.
        max_norm: Largest gradient norm; larger gradients are scaled down to it.
        schedule: "plateau" lowers the learning rate where validation stops improving; "cosine" brings it to
            nothing over the trainer's epochs, of which there must then be a largest number; a run that goes
            on with another number goes on at its place in the new course.
        plateau_epochs: Validations without improvement of the loss after which the learning rate is lowered.
        plateau_factor: By what it is multiplied then.

    Raises:
        ArgumentError: If a number is out of its range.
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
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.learning_rate = check_weight("learning_rate", learning_rate)
        self.max_norm = check_weight("max_norm", max_norm)
        check_between("plateau_epochs", plateau_epochs, 0, math.inf)
        check_between("plateau_factor", plateau_factor, 0, 0.999)
        if schedule not in get_args(Schedule):
            raise ArgumentError("schedule", expected=" or ".join(get_args(Schedule)), got=schedule)
        self.schedule = schedule
        self.plateau = (plateau_epochs, plateau_factor)
        self._frozen = list(frozen)  # no part of this module's checkpoints
        self._frozen_sha256: list[str] = []
        self._random_state: RandomState | None = None

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

    def configure_optimizers(self) -> tuple[list[Optimizer], list[ReduceLROnPlateau]]:
        """Adam for each group of parameters, and a plateau schedule for the first.

        Raises:
            ArgumentError: If a cosine schedule does not know where it ends.
        """
        optimizers: list[Optimizer] = [Adam(part, lr=rate) for part, rate in self.parameter_groups()]
        if self.schedule == "plateau":
            epochs, factor = self.plateau
            return optimizers, [ReduceLROnPlateau(optimizers[0], patience=epochs, factor=factor)]
        self._max_epochs()
        return optimizers, []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the first group's learning rate, in a cosine schedule, by how much of the training is done."""
        del batch
        if self.schedule == "cosine":
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

    def descend(self, loss: Tensor, batch: Batch) -> None:
        """Work out gradients and take a step."""
        with self.without_sync():
            self.manual_backward(loss)
        self.take_step(batch)

    def take_step(self, batch: Batch) -> None:
        """Average gradients over processes, clip them, step every optimizer; nothing if all gradients are 0.

        Raises:
            ArgumentError: If a gradient is not finite, in every process alike and before any weight changes.
        """
        optimizers = self._every_optimizer()
        parameters = [
            p for group in optimizers[0].param_groups for p in group["params"] if p.grad is not None
        ]
        average_over_processes([p.grad for p in parameters if p.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
        if not norm.isfinite():
            raise ArgumentError(
                "gradient norm",
                expected="finite",
                got=float(norm),
                remedy=f"Lower learning_rate; the batch was {', '.join(batch.image_ids)}.",
            )
        for optimizer in optimizers:
            if norm > 0:  # else Adam would go on with the steps before
                optimizer.step()
            optimizer.zero_grad()

    def without_sync(self) -> AbstractContextManager[None]:
        """Keep DDP from averaging gradients; `take_step` does."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def _every_optimizer(self) -> Sequence[LightningOptimizer]:
        optimizers = self.optimizers()
        return optimizers if isinstance(optimizers, list) else [optimizers]

    def end_validation(self, total: float) -> None:
        """Log the loss of a validation and step a plateau schedule with it."""
        self.log("val/loss", total, prog_bar=True, sync_dist=True)
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau) and not self.trainer.sanity_checking:
            schedule.step(total)

    # --- Lightning's plumbing -----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Move the frozen networks to this process's device, and on a CPU lay channels last.

        There convolutions of few channels take a fifth to a third less time so.

        Raises:
            ArgumentError: If the trainer's precision is one in which gradients would be clipped wrongly, or
                weights too coarse to learn.
        """
        if stage == "fit" and self.trainer.precision not in _PRECISIONS:
            raise ArgumentError(
                "trainer.precision", expected=f"one of {', '.join(_PRECISIONS)}", got=self.trainer.precision
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
