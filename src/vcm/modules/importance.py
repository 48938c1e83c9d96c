"""Training of importance networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from vcm.data import Batch
from vcm.encoding.reader import scale_to_reader
from vcm.errors import ArgumentError
from vcm.modules.base import NetworkModule, crops_of
from vcm.modules.metrics import Memory, MetricGroup
from vcm.modules.optimization import Schedule
from vcm.modules.schedules import LRSchedule, OptimizerFactory, SchedulerFactory
from vcm.nn.importance import ImportanceNetwork, block_octaves, save_importance
from vcm.tasks import SplitTask, check_split_task
from vcm.validation import check_whole


class OctaveMetrics(MetricGroup):
    """Validation metrics of predicted log2 importance."""

    def __init__(self) -> None:
        super().__init__()
        self.loss, self.power = MeanMetric(), MeanMetric()

    def compute(self) -> dict[str, Tensor]:
        """Return `loss`, the mean squared error in octaves², and `explained`, 1 − loss / variance."""
        values = super().compute()
        values["explained"] = 1 - values["loss"] / values.pop("power").clamp(min=1e-9)
        return values


class ImportanceModule(NetworkModule):
    """Training of a network that predicts a task's importance map from the image alone.

    ```
    x ─┬─► importance network ─► log2 s ──────────────────────────┬─► mean squared error
       └─► frozen tasks ─► importance ─► block means ─► log2 ─────┘
    ```

    Both maps have mean 0 per image: QP offsets depend on differences alone. With several tasks, each crop
    draws one of them, and validation compares with their mean.

    Args:
        network: Network to train.
        tasks: Frozen task networks by name, at least one.
        directions: Number of random directions of a training target, at least 1; fewer are faster and
            noisier. Validation uses the default of `vcm.tasks.SplitTask.importance`.
        learning_rate: Adam learning rate.
        max_norm: Largest gradient norm.
        schedule: See `NetworkModule`.
        plateau_epochs: See `NetworkModule`.
        plateau_factor: See `NetworkModule`.
        optimizer: See `NetworkModule`.
        scheduler: See `NetworkModule`.

    Raises:
        ArgumentError: If an argument is invalid.
    """

    network: ImportanceNetwork

    def __init__(
        self,
        network: ImportanceNetwork,
        tasks: Mapping[str, SplitTask],
        *,
        directions: int = 2,
        learning_rate: float = 1e-3,
        max_norm: float = 1.0,
        schedule: Schedule = "plateau",
        plateau_epochs: int = 20,
        plateau_factor: float = 0.5,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | LRSchedule | None = None,
    ) -> None:
        if not isinstance(network, ImportanceNetwork):
            raise ArgumentError(
                "network",
                expected="a vcm.nn.importance.ImportanceNetwork",
                got=type(network).__name__,
                remedy="For `vcm train`, say network=importance.",
            )
        if not tasks:
            raise ArgumentError("tasks", expected="at least one task", got=dict(tasks))
        self.tasks = {
            name: check_split_task(f"tasks.{name}", task, "an importance map") for name, task in tasks.items()
        }
        super().__init__(
            network,
            self.tasks.values(),
            learning_rate=learning_rate,
            max_norm=max_norm,
            schedule=schedule,
            plateau_epochs=plateau_epochs,
            plateau_factor=plateau_factor,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        self.save_hyperparameters(ignore=["network", "tasks", "optimizer", "scheduler"])
        self.directions = check_whole("directions", directions, 1)
        self.val_metrics = OctaveMetrics()
        self._memory: Memory[tuple[Tensor, Tensor]] = Memory()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Compute the mean squared error of log2 importance over the blocks of crops."""
        x = crops_of(batch)
        if max(x.shape[-2:]) <= self.network.stride:
            raise ArgumentError(
                "data.crop_size",
                expected=f"more than {self.network.stride} pixels, for at least two blocks",
                got=tuple(x.shape[-2:]),
            )
        names = list(self.tasks)
        drawn = torch.randint(len(names), (len(x),)).tolist()
        seed = self.global_step + batch_index
        drawn_tasks = [self.tasks[names[index]] for index in drawn]
        target = torch.stack(
            [self._octaves(task, image, seed) for task, image in zip(drawn_tasks, x, strict=True)]
        )
        loss: Tensor = (self.network(x) - target).square().mean()
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    def _octaves(self, task: SplitTask, image: Tensor, seed: int) -> Tensor:
        with torch.autocast(image.device.type, enabled=False):
            return block_octaves(task.importance(image, directions=self.directions, seed=seed))

    # --- validation ---------------------------------------------------------------------------------------

    def metric_groups(self) -> dict[str, MetricGroup]:
        """One group, without a name."""
        return {"": self.val_metrics}

    def validate_image(self, image: Tensor, batch: Batch, place: int) -> None:
        """Compare the prediction with the tasks' own maps at the first task's input size."""
        scaled, target = self._memory(image, lambda: self._target(image), batch.image_ids[place])
        error = self.network(scaled[None])[0] - target
        self.val_metrics.loss.update(error.square().mean(), target.numel())
        self.val_metrics.power.update(target.square().mean(), target.numel())

    def _target(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image at the input size, and the mean of the tasks' octaves."""
        pixels = (255 * image).round().to(torch.uint8)
        scaled = scale_to_reader(pixels, next(iter(self.tasks.values()))).float() / 255
        maps = [block_octaves(task.importance(scaled)) for task in self.tasks.values()]
        return scaled, torch.stack(maps).mean(dim=0)

    def save_model(self, path: Path, **notes: str) -> None:
        """Write the network to a model file; see `vcm.nn.importance.load_importance`."""
        save_importance(self.network, path, **notes)
