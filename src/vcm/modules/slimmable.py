"""Training of one encoder at several widths, each for its own task."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vcm.data import Batch
from vcm.errors import ArgumentError, WeightsError
from vcm.losses.rate_distortion import RateDistortion, check_weight, rate_distortion
from vcm.modules.figures import PictureFigures, TaskFigures, WidthFigures
from vcm.modules.processes import average_over_processes, is_repeated
from vcm.modules.randomness import RandomState, random_state, restore_random_state
from vcm.nn.padding import pad_to_multiple
from vcm.nn.slimmable import RECONSTRUCTION, CodecOutput, MultiTaskNetwork, load_network, save_network
from vcm.tasks import Task
from vcm.types import Prepared, is_number

_PRECISIONS = ("32-true", "bf16-mixed")

Stepping = Literal["per_width", "accumulated"]


class SlimmableModule(LightningModule):
    """Trains a `MultiTaskNetwork` (Cao et al., IEEE Access 2023).

    ```
    x ─┬─► network at each width, widest first ─► x̂ or f̂, bpp ─► bpp + λ·255²·MSE ─► step
       └─► frozen task network up to its cut ─► f
    ```

    For each batch and each width: backward, gradients averaged over processes, clipped, a step; then a step
    of the auxiliary optimizer for that width's own quantiles. (The published code clips after the narrow
    width's step, and steps every width's quantiles each time.) With `stepping="accumulated"`, gradients of
    all widths go into one step.

    Training batches are crops, of which the task's features are taken as they are: crops must have sides that
    are multiples of the task network's stride. In validation, pictures are prepared as the task prepares
    them, and its metric is taken against its own predictions on the originals (pseudo-labels).

    Works in float32 and "bf16-mixed", on one device or under DDP; gradients are averaged here, so that DDP
    needs no search for unused parameters.

    Args:
        network: What is trained.
        tasks: The task, cut where its feature map is, for every one of the network's tasks but
            "reconstruction".
        weights: λ of every one of the network's tasks.
        weight_scale: Multiplies every λ: one number moves a model along its rate–accuracy curve.
        learning_rate: Of Adam.
        auxiliary_learning_rate: Of Adam for the quantiles.
        max_norm: Largest gradient norm; larger gradients are scaled down to it.
        stepping: "per_width" or "accumulated".
        plateau_epochs: Validations without improvement of the loss after which the learning rate is lowered.
        plateau_factor: By what it is multiplied then.
        pseudo_score: Boxes at or above this score are pseudo-labels in validation.
        compile: Whether to run the network through torch.compile.

    Raises:
        ArgumentError: If tasks or weights are missing, or a number is out of its range.
    """

    def __init__(
        self,
        network: MultiTaskNetwork,
        tasks: Mapping[str, Task],
        weights: Mapping[str, float],
        *,
        weight_scale: float = 1.0,
        learning_rate: float = 1e-4,
        auxiliary_learning_rate: float = 1e-3,
        max_norm: float = 1.0,
        stepping: Stepping = "per_width",
        plateau_epochs: int = 20,
        plateau_factor: float = 0.5,
        pseudo_score: float = 0.3,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.save_hyperparameters(ignore=["network", "tasks"])
        self.network = network
        needed = [task for task in network.tasks if task != RECONSTRUCTION]
        if set(tasks) != set(needed):
            raise ArgumentError(
                "tasks", expected=f"one each for {', '.join(needed) or 'none'}", got=list(tasks)
            )
        if set(weights) != set(network.tasks):
            raise ArgumentError(
                "weights", expected=f"one λ each for {', '.join(network.tasks)}", got=list(weights)
            )
        if stepping not in ("per_width", "accumulated"):
            raise ArgumentError("stepping", expected="per_width or accumulated", got=stepping)
        scale = check_weight("weight_scale", weight_scale)
        self.weights = {t: scale * check_weight(f"weights.{t}", weights[t]) for t in network.tasks}
        for name, value in (
            ("learning_rate", learning_rate),
            ("auxiliary_learning_rate", auxiliary_learning_rate),
            ("max_norm", max_norm),
        ):
            check_weight(name, value)
        for name, value, low, high in (
            ("plateau_epochs", plateau_epochs, 0, math.inf),
            ("plateau_factor", plateau_factor, 0, 0.999),
            ("pseudo_score", pseudo_score, 0, 1),
        ):
            if not is_number(value) or not low <= value <= high:
                raise ArgumentError(name, expected=f"a number from {low} to {high}", got=value)
        self.stepping = stepping
        self.max_norm, self.pseudo_score = max_norm, pseudo_score
        self.learning_rates = (learning_rate, auxiliary_learning_rate)
        self.plateau = (plateau_epochs, plateau_factor)
        # Frozen, and no part of this module's checkpoints.
        self._tasks = [dict(tasks)]
        self._compiled = [torch.compile(network) if compile else network]
        self.figures = nn.ModuleDict({name: self._figures(name) for name in network.tasks})
        self._random_state: RandomState | None = None

    @property
    def tasks(self) -> dict[str, Task]:
        """The frozen task networks, by name."""
        return self._tasks[0]

    # --- training -----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> tuple[list[Optimizer], list[ReduceLROnPlateau]]:
        """Adam for the weights, Adam for the quantiles, and a plateau schedule for the first."""
        quantiles = {id(p) for name, p in self.network.named_parameters() if name.endswith(".quantiles")}
        main = [p for p in self.network.parameters() if id(p) not in quantiles]
        auxiliary = [p for p in self.network.parameters() if id(p) in quantiles]
        optimizers: list[Optimizer] = [
            Adam(main, lr=self.learning_rates[0]),
            Adam(auxiliary, lr=self.learning_rates[1]),
        ]
        epochs, factor = self.plateau
        schedule = ReduceLROnPlateau(optimizers[0], patience=epochs, factor=factor)
        return optimizers, [schedule]

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """One step a width, or one step for all of them."""
        del batch_index
        x = batch.images
        if not isinstance(x, Tensor):
            raise ArgumentError("batch", expected="crops of one size", got="pictures of several sizes")
        total = x.new_zeros(())
        for task in reversed(self.network.tasks):
            outcome = self._outcome(x, task)
            with self._without_sync():
                self.manual_backward(outcome.loss)
                self.manual_backward(self.network.auxiliary_loss(task))
            if self.stepping == "per_width":
                self._step(batch)
            total += outcome.loss.detach()
            name = "mse" if task == RECONSTRUCTION else "feature_mse"
            self.log_dict(
                {f"train/{task}/bpp": outcome.bpp.detach(), f"train/{task}/{name}": outcome.mse.detach()}
            )
        if self.stepping == "accumulated":
            self._step(batch)
        self.log("train/loss", total, prog_bar=True)

    def _outcome(self, x: Tensor, task: str) -> RateDistortion:
        """The loss of one width on crops."""
        num_pixels = x.shape[0] * x.shape[2] * x.shape[3]
        target = x
        if task != RECONSTRUCTION:
            with torch.no_grad():
                sizes = tuple((x.shape[2], x.shape[3]) for _ in x)
                target = self.tasks[task].cut_feature(Prepared(x, sizes))
        output: CodecOutput = self._compiled[0](pad_to_multiple(x, self.network.stride), task)
        decoded = output.decoded[..., : target.shape[-2], : target.shape[-1]]
        return rate_distortion(decoded, target, output.likelihoods.values(), num_pixels, self.weights[task])

    def _step(self, batch: Batch) -> None:
        """Average gradients over processes, clip them, step both optimizers.

        Raises:
            ArgumentError: If a gradient is not finite, in every process alike and before any weight changes.
        """
        main, auxiliary = self._both_optimizers()
        parameters = [p for group in main.param_groups for p in group["params"] if p.grad is not None]
        average_over_processes([p.grad for p in parameters if p.grad is not None])
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.max_norm)
        if not norm.isfinite():
            raise ArgumentError(
                "gradient norm",
                expected="finite",
                got=float(norm),
                remedy=f"Lower learning_rate; the batch was {', '.join(batch.image_ids)}.",
            )
        for optimizer in (main, auxiliary):
            optimizer.step()
            optimizer.zero_grad()

    def _both_optimizers(self) -> tuple[LightningOptimizer, LightningOptimizer]:
        optimizers = self.optimizers()
        assert isinstance(optimizers, list)
        return optimizers[0], optimizers[1]

    def _without_sync(self) -> AbstractContextManager[None]:
        """Keep DDP from averaging gradients of parameters that a width does not use."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    # --- validation ---------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation's figures."""
        for figures in self._every_figures().values():
            figures.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Code whole pictures at every width, with rounded symbols and estimated rates."""
        for place, image in enumerate(batch.images):
            if is_repeated(self.trainer.val_dataloaders, batch_index, place):
                continue
            for figures in self._every_figures().values():
                figures.add(self.network, image)

    def on_validation_epoch_end(self) -> None:
        """Log every figure and step the plateau schedule."""
        total = 0.0
        for task, figures in self._every_figures().items():
            values = figures.compute()
            total += float(values["loss"])
            self.log_dict({f"val/{task}/{name}": value for name, value in values.items()}, sync_dist=True)
        self.log("val/loss", total, prog_bar=True, sync_dist=True)
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau) and not self.trainer.sanity_checking:
            schedule.step(total)

    def _figures(self, name: str) -> WidthFigures:
        if name == RECONSTRUCTION:
            return PictureFigures(self.weights[name])
        return TaskFigures(name, self.tasks[name], self.weights[name], self.pseudo_score)

    def _every_figures(self) -> dict[str, WidthFigures]:
        return {name: part for name, part in self.figures.items() if isinstance(part, WidthFigures)}

    def save_model(self, path: Path, **notes: str) -> None:
        """Write the network to a file that `vcm.codecs.LearnedCodec` takes; see `save_network`."""
        save_network(self.network, path, **notes)

    def start_from(self, path: str | Path) -> None:
        """Take over the weights of a model file, as another λ's training starts.

        Raises:
            WeightsError: If it cannot be read, or is of another architecture.
        """
        other = load_network(path)
        if other.architecture() != self.network.architecture():
            raise WeightsError(f"{path} is of another architecture: {other.architecture()}.")
        self.network.load_state_dict(other.state_dict())

    # --- Lightning's plumbing -----------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Move the frozen networks to this process's device.

        Raises:
            ArgumentError: If the trainer's precision is one in which gradients would be clipped wrongly, or
                weights too coarse to learn.
        """
        if stage == "fit" and self.trainer.precision not in _PRECISIONS:
            raise ArgumentError(
                "trainer.precision", expected=f"one of {', '.join(_PRECISIONS)}", got=self.trainer.precision
            )
        for task in self.tasks.values():
            task.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the random generators' states, so that a resumed run takes the same next step."""
        checkpoint["random_state"] = random_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the states until training starts: setting up draws random numbers too."""
        self._random_state = checkpoint.get("random_state")

    def on_train_start(self) -> None:
        """Go on with the random numbers that were next when the checkpoint was saved."""
        if self._random_state is not None:
            restore_random_state(self._random_state)
            self._random_state = None
