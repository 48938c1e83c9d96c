"""Slimmable codec training."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vcm.data import Batch
from vcm.deprecation import former_arguments
from vcm.errors import ArgumentError
from vcm.losses.rate_distortion import RateDistortion, rate_distortion, squared_error
from vcm.modules.base import NetworkModule, crops_of
from vcm.modules.metrics import FeatureMetrics, MetricGroup, ReconstructionMetrics, WidthMetrics
from vcm.modules.optimization import Schedule
from vcm.modules.schedules import LRSchedule, OptimizerFactory, SchedulerFactory
from vcm.nn.layers import pad_to_multiple
from vcm.nn.slimmable import RECONSTRUCTION, CodecOutput, MultiTaskNetwork, save_network
from vcm.tasks import SplitTask
from vcm.tasks.distance import FeatureDistance
from vcm.tasks.letterbox import GREY
from vcm.types import Prepared
from vcm.validation import check_between, check_positive

Stepping = Literal["per_width", "accumulated"]


class SlimmableModule(NetworkModule):
    """Training of a `MultiTaskNetwork` (Cao et al., IEEE Access 2023).

    ```
    x ─┬─► network at each width, widest first ─► x̂ or f̂, bpp ─► bpp + λ·255²·MSE ─► step
       └─► frozen task network up to its cut ─► f
    ```

    For each width of each batch: backward, average gradients over processes, clip, step; then step the aux
    optimizer of that width's quantiles. (The published code clips after the narrow width's step, and steps
    the quantiles of all widths each time.) With `stepping="accumulated"`, the gradients of all widths make
    one step. This is manual optimization: Lightning's `gradient_clip_val` and `accumulate_grad_batches`
    cannot be used; set `max_norm` and larger batches instead.

    Training batches are crops that the task network reads without preparation, so their sides must be
    multiples of its stride. Validation prepares whole images as the task does, and measures its metric
    against its predictions on the originals (pseudo-labels).

    Supports float32 and "bf16-mixed", one device and DDP. Gradients are averaged here, so DDP does not have
    to search for unused parameters.

    Args:
        network: Network to train.
        tasks: Task network for each task but "reconstruction", cut at its feature map.
        lmbda: λ of each of the network's tasks, above 0.
        lmbda_scale: Factor of every λ, above 0: moves the model along its rate–accuracy curve.
        quality_scales: Factor of λ at each of the network's qualities. Each batch draws a quality for each
            width.
        border_share: Share of the training crops, in [0, 1], that get a grey border on one side, up to three
            quarters of the crop wide, for the widths with features. Letterboxed images have such borders, and
            a network that never saw one spends bits on it.
        guides: Deeper layers, or "heads" for the raw outputs, by task: decoded features are compared with
            the original's there, after the frozen layers in between, in addition to the cut. One name or a
            list. See `FeatureDistance`.
        near_weight: Weight of the relative error at the cut if there are guides.
        learning_rate: Adam learning rate.
        aux_learning_rate: Adam learning rate of the quantiles.
        max_norm: Largest gradient norm; larger gradients are scaled down to it.
        stepping: "per_width" or "accumulated".
        schedule: "plateau" or "cosine"; see `NetworkModule`.
        plateau_epochs: See `NetworkModule`.
        plateau_factor: See `NetworkModule`.
        optimizer: See `NetworkModule`. Quantiles always use Adam.
        scheduler: See `NetworkModule`.
        pseudo_score: Boxes at or above this score are pseudo-labels in validation.
        compile: Whether to compile the network with torch.compile.

    Raises:
        ArgumentError: If tasks or λ are missing, or a number is out of range.
    """

    @former_arguments(
        weights="lmbda", weight_scale="lmbda_scale", auxiliary_learning_rate="aux_learning_rate"
    )
    def __init__(
        self,
        network: MultiTaskNetwork,
        tasks: Mapping[str, SplitTask],
        lmbda: Mapping[str, float],
        *,
        lmbda_scale: float = 1.0,
        quality_scales: Sequence[float] = (1.0,),
        border_share: float = 0.0,
        guides: Mapping[str, str | Sequence[str]] | None = None,
        near_weight: float = 0.3,
        learning_rate: float = 1e-4,
        aux_learning_rate: float = 1e-3,
        max_norm: float = 1.0,
        stepping: Stepping = "per_width",
        schedule: Schedule = "plateau",
        plateau_epochs: int = 20,
        plateau_factor: float = 0.5,
        pseudo_score: float = 0.3,
        compile: bool = False,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | LRSchedule | None = None,
    ) -> None:
        super().__init__(
            network,
            tasks.values(),
            learning_rate=learning_rate,
            max_norm=max_norm,
            schedule=schedule,
            plateau_epochs=plateau_epochs,
            plateau_factor=plateau_factor,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        self.automatic_optimization = False  # a step for each width
        self.save_hyperparameters(ignore=["network", "tasks", "optimizer", "scheduler"])
        self.network: MultiTaskNetwork = network
        needed = [task for task in network.tasks if task != RECONSTRUCTION]
        if set(tasks) != set(needed):
            raise ArgumentError(
                "tasks", expected=f"one each for {', '.join(needed) or 'none'}", got=list(tasks)
            )
        if set(lmbda) != set(network.tasks):
            raise ArgumentError(
                "lmbda", expected=f"one number each for {', '.join(network.tasks)}", got=list(lmbda)
            )
        if stepping not in ("per_width", "accumulated"):
            raise ArgumentError("stepping", expected="per_width or accumulated", got=stepping)
        scale = check_positive("lmbda_scale", lmbda_scale)
        self.lmbda = {t: scale * check_positive(f"lmbda.{t}", lmbda[t]) for t in network.tasks}
        if len(quality_scales) != network.qualities:
            raise ArgumentError(
                "quality_scales",
                expected=f"one for each of the network's qualities, {network.qualities}",
                got=list(quality_scales),
            )
        self.quality_scales = [check_positive("quality_scales", value) for value in quality_scales]
        self.border_share = check_between("border_share", border_share, 0, 1)
        self.aux_learning_rate = check_positive("aux_learning_rate", aux_learning_rate)
        self.pseudo_score = check_between("pseudo_score", pseudo_score, 0, 1)
        self.stepping = stepping
        self._tasks = [dict(tasks)]  # no part of this module's state
        guides = dict(guides or {})
        self.guides = {
            name: [guide] if isinstance(guide, str) else list(guide) for name, guide in guides.items()
        }
        if unknown := sorted(set(guides) - set(tasks)):
            raise ArgumentError("guides", expected=f"names among {', '.join(tasks)}", got=unknown[0])
        self._distances = {
            name: FeatureDistance(task, self.guides.get(name), near_weight) for name, task in tasks.items()
        }
        self._compiled = [torch.compile(network) if compile else network]
        self.val_metrics = nn.ModuleDict({name: self._metrics_of(name) for name in network.tasks})

    @property
    def tasks(self) -> dict[str, SplitTask]:
        """The frozen task networks, by name."""
        return self._tasks[0]

    # --- training -----------------------------------------------------------------------------------------

    def parameter_groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """Return the weights and the quantiles, with their learning rates."""
        quantiles = {id(p) for name, p in self.network.named_parameters() if name.endswith(".quantiles")}
        main = [p for p in self.network.parameters() if id(p) not in quantiles]
        quantile_parameters = [p for p in self.network.parameters() if id(p) in quantiles]
        return [(main, self.learning_rate), (quantile_parameters, self.aux_learning_rate)]

    @property
    def steps_per_batch(self) -> int:
        """Steps of the two optimizers; for each width with `stepping="per_width"`."""
        return 2 * (len(self.network.tasks) if self.stepping == "per_width" else 1)

    def training_step(self, batch: Batch, batch_index: int) -> None:
        """Take one step per width, or one step for all of them."""
        del batch_index
        x = crops_of(batch)
        total = x.new_zeros(())
        for task in reversed(self.network.tasks):
            outcome = self._outcome(x, task, self._draw())
            with self.without_sync():
                self.manual_backward(outcome.loss)
                self.manual_backward(self.network.aux_loss(task))
            if self.stepping == "per_width":
                self.take_step()
            total += outcome.loss.detach()
            name = "mse" if task == RECONSTRUCTION else "feature_error"
            self.log_dict(
                {
                    f"train/{task}/bpp": outcome.bpp.detach(),
                    f"train/{task}/{name}": outcome.distortion.detach(),
                }
            )
        if self.stepping == "accumulated":
            self.take_step()
        self.log("train/loss", total, prog_bar=True)

    def _draw(self) -> int:
        """Draw one of the network's qualities."""
        return int(torch.randint(self.network.qualities, ())) + 1 if self.network.qualities > 1 else 1

    def _outcome(self, x: Tensor, task: str, quality: int) -> RateDistortion:
        """Compute the loss of one width on crops."""
        num_pixels = x.shape[0] * x.shape[2] * x.shape[3]
        target = x
        distortion = squared_error if task == RECONSTRUCTION else self._distances[task]
        if task != RECONSTRUCTION:
            x = with_borders(x, self.border_share)
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                sizes = tuple((x.shape[2], x.shape[3]) for _ in x)
                target = self.tasks[task].cut_feature(Prepared(x, sizes))
        output: CodecOutput = self._compiled[0](pad_to_multiple(x, self.network.stride), task, quality)
        decoded = output.x_hat[..., : target.shape[-2], : target.shape[-1]]
        likelihoods = output.likelihoods.values()
        lmbda = self.lmbda[task] * self.quality_scales[quality - 1]
        return rate_distortion(decoded, target, likelihoods, num_pixels, lmbda, distortion=distortion)

    # --- validation ---------------------------------------------------------------------------------------

    def metric_groups(self) -> dict[str, MetricGroup]:
        """One group for each width, named by its task."""
        return dict(self._widths())

    def validate_image(self, image: Tensor, batch: Batch, place: int) -> None:
        """Code an image at every width, with rounded symbols and estimated rates."""
        del batch, place
        for metrics in self._widths().values():
            metrics.add(self.network, image)

    def total_loss(self, losses: Sequence[float]) -> float:
        """The sum over widths."""
        return sum(losses)

    def _metrics_of(self, name: str) -> WidthMetrics:
        scales = self.quality_scales  # validation is at the middle of them
        lmbda = self.lmbda[name] * math.sqrt(scales[(len(scales) - 1) // 2] * scales[len(scales) // 2])
        if name == RECONSTRUCTION:
            return ReconstructionMetrics(lmbda)
        return FeatureMetrics(name, self._distances[name], lmbda, self.pseudo_score)

    def _widths(self) -> dict[str, WidthMetrics]:
        return {name: part for name, part in self.val_metrics.items() if isinstance(part, WidthMetrics)}

    def save_model(self, path: Path, **notes: str) -> None:
        """Write a model file for `vcm.codecs.LearnedCodec`; see `save_network`.

        The file records λ and guides, the defaults of the encoder-side search.
        """
        training = {"lmbda": self.lmbda, "quality_scales": self.quality_scales, "guides": self.guides}
        save_network(self.network, path, half=False, training=json.dumps(training), **notes)

    def start_from(self, path: str | Path) -> None:
        """See `NetworkModule.start_from`; residual blocks that the file lacks start as the identity."""
        super().start_from(path)

    def _load_weights(self, other: nn.Module) -> None:
        self.network.load_state_dict({**self.network.state_dict(), **other.state_dict()})

    def _architecture(self, network: nn.Module) -> dict[str, Any]:
        settings = super()._architecture(network)
        blocks, own = settings.get("blocks", {}), self.network.architecture().get("blocks", {})
        if all(count <= own.get(task, 0) for task, count in blocks.items()):
            settings["blocks"] = own
        return settings


def with_borders(x: Tensor, share: float) -> Tensor:
    """Give a share of the crops, (N, 3, H, W), a grey border on one side."""
    bordered = x
    for place in range(len(x)):
        if share > 0 and float(torch.rand(())) < share:
            bordered = x.clone() if bordered is x else bordered
            crop = bordered[place]
            crop = crop if float(torch.rand(())) < 0.5 else crop.transpose(1, 2)
            depth = int(torch.randint(1, max(2, crop.shape[1] * 3 // 4), ()))
            crop[:, slice(depth) if float(torch.rand(())) < 0.5 else slice(-depth, None)] = GREY
    return bordered
