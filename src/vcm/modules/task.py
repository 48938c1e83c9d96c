"""Fine-tuning of a task network on decoded images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from vcm.data import Batch
from vcm.deprecation import former_arguments
from vcm.errors import ArgumentError
from vcm.modules.base import NetworkModule, crops_of
from vcm.modules.codec_loop import CodecLoop
from vcm.modules.metrics import Memory, MetricGroup
from vcm.modules.optimization import Schedule
from vcm.modules.schedules import LRSchedule, OptimizerFactory, SchedulerFactory
from vcm.modules.supervision import Guide, Supervision, TaskSupervision
from vcm.nn.preprocessor import NPP, QuantizationAdaptiveNPP
from vcm.tasks import SplitTask, fine_tuned
from vcm.tasks.fine_tuned import save_fine_tuned
from vcm.types import Target


class QualityMetrics(MetricGroup):
    """Validation metrics of one quality: `bpp` over all pixels, `loss` and the task's metric.

    Args:
        task: Whose metric is taken.
    """

    def __init__(self, task: SplitTask) -> None:
        super().__init__()
        self.bpp, self.loss = MeanMetric(), MeanMetric()
        self.accuracy = task.metric()


class TaskModule(NetworkModule):
    """Fine-tuning of a task network on decoded images.

    ```
    x ─┬─► (frozen NPP(·, λ)) ─► codec at a quality, on threads ─► x̂ ─► task ─► L_task(x̂)
       └─► the task as it was, frozen ─► pseudo-labels or features ─────────────┘
    ```

    Each batch draws one of the qualities. No gradient flows through the codec. Normalization layers stay in
    evaluation mode. Images on which the codec fails are skipped.

    Args:
        task: Task network; a copy of it, `network`, is fine-tuned.
        codec_loop: The codec.
        qualities: Qualities on the codec's scale, of which each batch draws one.
        preprocessor: Frozen preprocessor before the codec; None for none.
        lmbda: λ of a quantization-adaptive preprocessor, one for each of the qualities.
        supervision: "labels" of the dataset; "pseudo", predictions of the original task on the original
            images; "features", the relative squared error of the features at the cut, which trains only the
            layers before it; "heads", the divergence of the raw outputs plus a share of that error.
        pseudo_score: Lowest score of a detection that becomes a pseudo-label, in [0, 1].
        feature_share: Weight of the feature error with "heads".
        learning_rate: Adam learning rate.
        max_norm: Largest gradient norm.
        schedule: See `NetworkModule`.
        plateau_epochs: See `NetworkModule`.
        plateau_factor: See `NetworkModule`.
        optimizer: See `NetworkModule`.
        scheduler: See `NetworkModule`.

    Raises:
        ArgumentError: If a quality is not on the codec's scale, `lmbda` does not fit the preprocessor,
            or a number is out of range.
    """

    network: SplitTask
    codec_loop: CodecLoop

    @former_arguments(rates="lmbda")
    def __init__(
        self,
        task: SplitTask,
        codec_loop: CodecLoop,
        *,
        qualities: Sequence[float],
        preprocessor: NPP | None = None,
        lmbda: Sequence[float] | None = None,
        supervision: Supervision = "pseudo",
        pseudo_score: float = 0.3,
        feature_share: float = 1.0,
        learning_rate: float = 1e-5,
        max_norm: float = 1.0,
        schedule: Schedule = "plateau",
        plateau_epochs: int = 20,
        plateau_factor: float = 0.5,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | LRSchedule | None = None,
    ) -> None:
        frozen = [] if preprocessor is None else [preprocessor.requires_grad_(False).eval()]
        super().__init__(
            copy.deepcopy(task).requires_grad_(True),
            (task, *frozen),
            learning_rate=learning_rate,
            max_norm=max_norm,
            schedule=schedule,
            plateau_epochs=plateau_epochs,
            plateau_factor=plateau_factor,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        self.save_hyperparameters(ignore=["task", "codec_loop", "preprocessor", "optimizer", "scheduler"])
        if not qualities:
            raise ArgumentError("qualities", expected="a list of at least one quality", got=qualities)
        checked = [codec_loop.scale.check(quality) for quality in qualities]
        self.points = list(zip(_check_lmbda(lmbda, preprocessor, len(checked)), checked, strict=True))
        self.codec_loop = codec_loop
        self._preprocessor = frozen  # no part of this module's checkpoints
        self.guide = TaskSupervision(task, supervision, pseudo_score, feature_share=feature_share)
        self.learner = TaskSupervision(self.network, supervision, pseudo_score, feature_share=feature_share)
        self.val_metrics = torch.nn.ModuleList(QualityMetrics(task) for _ in self.points)
        self._memory: Memory[tuple[Sequence[Guide], Sequence[Target]]] = Memory()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Compute the loss of crops at one of the qualities; 0 if the codec fails on all of them."""
        del batch_index
        x = crops_of(batch)
        lmbda, quality = self.points[int(torch.randint(len(self.points), ()))]
        coded = self.codec_loop.start(self._filtered(x, lmbda), quality, batch.image_ids)
        guides = self.guide.guides(list(x), batch.targets)
        outcome = coded()
        self.log_dict({"train/codec_failures": float(self.codec_loop.num_failures)}, prog_bar=True)
        if len(outcome.kept) == 0:
            return 0 * self.learner.loss(list(x), guides)  # other processes wait for gradients
        kept = [guides[place] for place in outcome.kept.tolist()]
        loss = self.learner.loss(list(outcome.decoded), kept)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss

    @torch.no_grad()
    def _filtered(self, x: Tensor, lmbda: float | None) -> Tensor:
        """Run the preprocessor, if there is one, in float32."""
        for preprocessor in self._preprocessor:
            with torch.autocast(x.device.type, enabled=False):
                return preprocessor(x, lmbda)  # type: ignore[no-any-return]  # nn.Module.__call__ returns Any
        return x

    # --- validation ---------------------------------------------------------------------------------------

    def metric_groups(self) -> dict[str, MetricGroup]:
        """One group for each quality, named by it."""
        return {
            f"{quality:g}": metrics
            for (_, quality), metrics in zip(self.points, self._quality_metrics(), strict=True)
        }

    def _quality_metrics(self) -> list[QualityMetrics]:
        return [metrics for metrics in self.val_metrics if isinstance(metrics, QualityMetrics)]

    def validate_image(self, image: Tensor, batch: Batch, place: int) -> None:
        """Run a whole image through the real codec at every quality."""
        name = [batch.image_ids[place]]
        waiting = [
            self.codec_loop.start(self._filtered(image[None], lmbda), q, name) for lmbda, q in self.points
        ]
        guide, truth = self._memory(
            image, lambda: self._originals(image, batch.targets[place]), batch.image_ids[place]
        )
        for metrics, coded in zip(self._quality_metrics(), waiting, strict=True):
            outcome = coded()
            if len(outcome.kept):
                decoded = list(outcome.decoded)
                metrics.bpp.update(outcome.bpp, image.shape[-1] * image.shape[-2])
                metrics.loss.update(self.learner.loss(decoded, guide))
                metrics.accuracy.update(self.network.predict(decoded), truth)

    def _originals(self, image: Tensor, target: Target | None) -> tuple[Sequence[Guide], Sequence[Target]]:
        """Return the targets of the loss and of the accuracy."""
        guide = self.guide.guides([image], [target])
        labels = [one for one in guide if not isinstance(one, dict)]
        return guide, labels or self.guide.pseudo_labels([image])

    # --- files --------------------------------------------------------------------------------------------

    def save_model(self, path: Path, **notes: str) -> None:
        """Write a model file for `vcm.tasks.fine_tuned`."""
        save_fine_tuned(self.network, path, **notes)

    def start_from(self, path: str | Path) -> None:
        """See `NetworkModule.start_from`."""
        fine_tuned(self.network, path)


def _check_lmbda(
    lmbda: Sequence[float] | None, preprocessor: NPP | None, number: int
) -> Sequence[float | None]:
    """Check that λ and preprocessor go together; return one λ per quality."""
    if not isinstance(preprocessor, QuantizationAdaptiveNPP):
        if lmbda is not None:
            raise ArgumentError(
                "lmbda", expected="null without a quantization-adaptive preprocessor", got=lmbda
            )
        return [None] * number
    if lmbda is None or len(lmbda) != number:
        raise ArgumentError("lmbda", expected=f"one λ for each of the {number} qualities", got=lmbda)
    return [preprocessor.check_lmbda(value) for value in lmbda]
