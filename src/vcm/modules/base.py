"""Base of vcm's LightningModules."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vcm.data import Batch
from vcm.errors import ArgumentError, WeightsError
from vcm.modules.codec_loop import CodecLoop
from vcm.modules.distributed import RandomState, is_repeated, random_state, restore_random_state
from vcm.modules.metrics import MetricGroup
from vcm.modules.optimization import OptimizedModule, Schedule
from vcm.modules.schedules import LRSchedule, OptimizerFactory, SchedulerFactory
from vcm.nn.models import load_model
from vcm.nn.weights import state_sha256


class NetworkModule(OptimizedModule):
    """Base of vcm's LightningModules: a network to train, frozen ones, model files, exact resuming.

    Optimizers, schedules and gradients are those of `OptimizedModule`. Random states are part of checkpoints:
    a resumed run takes the same next step. Frozen networks are not part of them, and a resumed run must have
    the same ones.

    Args:
        network: The network to train.
        frozen: Networks that training uses without changing them.
        learning_rate: See `OptimizedModule`.
        max_norm: See `OptimizedModule`.
        schedule: See `OptimizedModule`.
        plateau_epochs: See `OptimizedModule`.
        plateau_factor: See `OptimizedModule`.
        optimizer: See `OptimizedModule`.
        scheduler: See `OptimizedModule`.

    Raises:
        ArgumentError: If an argument is out of its range.
    """

    codec_loop: CodecLoop | None = None
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
        super().__init__(
            learning_rate=learning_rate,
            max_norm=max_norm,
            schedule=schedule,
            plateau_epochs=plateau_epochs,
            plateau_factor=plateau_factor,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        self.network = network
        self._frozen = list(frozen)  # no part of this module's checkpoints
        self._frozen_sha256: list[str] = []
        self._random_state: RandomState | None = None

    @abstractmethod
    def save_model(self, path: Path, **notes: str) -> None:
        """Write the network to a file of its own.

        Args:
            path: The file; its folder must exist.
            notes: Further metadata of the file, as text.
        """

    def start_from(self, path: str | Path) -> None:
        """Load weights from a model file.

        Raises:
            WeightsError: If it cannot be read, or has another architecture.
        """
        other = load_model(path)
        own, given = self._architecture(self.network), self._architecture(other)
        if own != given:
            different = [name for name in {**own, **given} if own.get(name) != given.get(name)]
            shown = (f"{name} is {given.get(name)}, not {own.get(name)}" for name in sorted(different))
            raise WeightsError(f"{path} has another architecture: {'; '.join(shown)}.")
        self._load_weights(other)

    def _load_weights(self, other: nn.Module) -> None:
        """Load the weights of a network that passed the check of `start_from`."""
        self.network.load_state_dict(other.state_dict())

    def _architecture(self, network: nn.Module) -> dict[str, Any]:
        """Return the settings of a network in which `start_from` allows no difference."""
        settings = network.architecture() if hasattr(network, "architecture") else {}  # type: ignore[operator]  # a method
        return {"network": type(network).__name__, **settings}

    # --- validation ---------------------------------------------------------------------------------------

    def metric_groups(self) -> dict[str, MetricGroup]:
        """Return the metrics of validation by the name under which they are logged; "" adds no name.

        Each group has a metric `loss`.
        """
        return {}

    def validate_image(self, image: Tensor, batch: Batch, place: int) -> None:
        """Update the validation metrics with one image.

        Args:
            image: (3, H, W) in [0, 1].
            batch: The image's batch.
            place: Position of the image in the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} must define validate_image or validation_step.")

    def total_loss(self, losses: Sequence[float]) -> float:
        """Combine the losses of all metric groups to `val/loss`; their mean unless overridden."""
        return sum(loss / len(losses) for loss in losses)

    def on_validation_epoch_start(self) -> None:
        """Reset validation metrics."""
        for group in self.metric_groups().values():
            group.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Validate each image on its own, in float32, as networks run after training."""
        for place, image in enumerate(batch.images):
            if is_repeated(self.trainer.val_dataloaders, batch_index, place):
                continue
            with torch.autocast(image.device.type, enabled=False):
                self.validate_image(image, batch, place)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, as `val/NAME/METRIC`, and `val/loss`."""
        groups, losses = self.metric_groups(), []
        for name, group in groups.items():
            values = group.compute()
            losses.append(float(values["loss"]))
            if not name:
                del values["loss"]
            prefix = f"val/{name}/" if name else "val/"
            self.log_dict({f"{prefix}{key}": value for key, value in values.items()}, sync_dist=True)
        if groups:
            self.log("val/loss", self.total_loss(losses), prog_bar=True, sync_dist=True)

    # --- Lightning's plumbing -----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Move the frozen networks to this process's device, and use channels-last memory on a CPU.

        Convolutions of few channels take a fifth to a third less time in that layout.

        Raises:
            ArgumentError: If the trainer's precision would clip gradients wrongly, or round weight updates
                away.
        """
        super().setup(stage)
        device = self.trainer.strategy.root_device  # self.device still is the CPU
        for network in self._frozen:
            network.to(device)
        if device.type == "cpu":
            for network in (self.network, *self._frozen):
                network.to(memory_format=torch.channels_last)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the random generators' states, so that a resumed run takes the same next step."""
        checkpoint["random_state"] = random_state()
        if self.codec_loop is not None:
            checkpoint["codec_loop"] = self.codec_loop.state_dict()
        checkpoint["frozen_sha256"] = self._frozen_sha256

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random states until training starts, because setting up draws random numbers too."""
        self._random_state = checkpoint.get("random_state")
        if self.codec_loop is not None and "codec_loop" in checkpoint:
            self.codec_loop.load_state_dict(checkpoint["codec_loop"])
        self._frozen_sha256 = checkpoint.get("frozen_sha256", [])

    def on_train_start(self) -> None:
        """Restore the random states of the checkpoint.

        Raises:
            ArgumentError: If the weights of a frozen network have changed since the checkpoint.
        """
        before = self._frozen_sha256
        self._frozen_sha256 = [state_sha256(network.state_dict()) for network in self._frozen]
        if before and before != self._frozen_sha256:
            names = ", ".join(type(network).__name__ for network in self._frozen)
            raise ArgumentError(
                "run_dir",
                expected=f"the folder of a run with the same frozen weights ({names})",
                got="a run with other weights",
                remedy="Use another run_dir or name, or remove the folder to start again.",
            )
        super().on_train_start()
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None


def crops_of(batch: Batch) -> Tensor:
    """Return the images of a training batch, (N, 3, H, W).

    Raises:
        ArgumentError: If the images have several sizes.
    """
    if not isinstance(batch.images, Tensor):
        raise ArgumentError("batch", expected="crops of one size", got="images of several sizes")
    return batch.images
