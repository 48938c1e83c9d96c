"""NPP training with the real codec in the loop."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from vcm.data import Batch
from vcm.encoding.reader import Importance, check_takes_offsets, scale_to_reader
from vcm.errors import ArgumentError
from vcm.losses.proxy import straight_through
from vcm.modules.base import NetworkModule, crops_of
from vcm.modules.codec_loop import CodecLoop, check_stands_in
from vcm.modules.metrics import Memory, MetricGroup
from vcm.modules.optimization import Schedule
from vcm.modules.schedules import LRSchedule, OptimizerFactory, SchedulerFactory
from vcm.modules.supervision import Guide, Supervision, TaskSupervision
from vcm.nn.preprocessor import NPP, QuantizationAdaptiveNPP, save_preprocessor
from vcm.nn.proxy import Proxy
from vcm.tasks import SplitTask, check_split_task
from vcm.types import Target
from vcm.validation import check_between, check_positive

Drawing = Literal["per_batch", "per_image"]


class PairMetrics(MetricGroup):
    """Validation metrics of one (λ, quality) pair.

    Args:
        task: Frozen task network, whose metric is measured against its predictions on the originals.
    """

    def __init__(self, task: SplitTask) -> None:
        super().__init__()
        self.bpp, self.loss, self.task_loss, self.mse = (MeanMetric() for _ in range(4))
        self.accuracy = task.metric()

    def compute(self) -> dict[str, Tensor]:
        """Return `bpp` over all pixels, `loss`, `task_loss`, `psnr` of x̄ in dB, and the task's metric."""
        values = super().compute()
        values["psnr"] = -10 * values.pop("mse").clamp(min=1e-10).log10()
        return values


class NPPModule(NetworkModule):
    """Training of a preprocessor before a standard codec (Lu et al., IEEE TCSVT 2024).

    ```
    x ─► NPP(·, λ) ─► x̄ ─┬─► codec at the λ's quality, on threads ─► values  ┐
                         └─► frozen proxy ──────────────────────► gradients ┴─► x̂, bpp ─► frozen task
    loss = w_r·bpp + w_x·MSE(x̄, x) + λ·w_t·L_task(x̂)
    ```

    A pair is drawn for each batch, as published, or for each image. The latter shows batch normalization the
    mixture of all λ that it sees in evaluation. Images on which the codec fails are skipped.

    Args:
        network: Preprocessor to train; a quantization-adaptive one for more than one λ.
        proxy: Proxy of the codec; frozen.
        task: Task network that reads the decoded images; frozen.
        codec_loop: The real codec.
        pairs: (λ, quality) pairs; (0.25, 44) to (16, 25) in the paper, for BPG.
        drawing: "per_batch" or "per_image".
        supervision: "labels" of the dataset; "pseudo", the task's predictions on the original images;
            "features", the relative squared error of the task's features at its cut; "heads", the
            divergence of its raw outputs plus a share of that error.
        task_weight: w_t, which scales the task loss to that of a detector.
        fidelity_weight: w_x, 0.5 in the paper.
        rate_weight: w_r, 1 in the paper; 0 ignores the rate, as an ablation.
        pseudo_score: Lowest score of a detection that becomes a pseudo-label, in [0, 1].
        feature_share: Weight of the feature error with "heads".
        at_reader: Whether to scale validation images down to the task's input size first; validation rates
            are then per pixel of the scaled images. Train with crops of that size, too.
        importance: QP offsets from the task's importance map in the codec; None for none. The proxy must
            take offsets.
        importance_share: Share of the training crops that are coded with offsets, in [0, 1]; without
            effect if `importance` is None. Validation images are all coded with them.
        learning_rate: Adam learning rate.
        max_norm: Largest gradient norm.
        schedule: See `NetworkModule`.
        plateau_epochs: See `NetworkModule`.
        plateau_factor: See `NetworkModule`.
        optimizer: See `NetworkModule`.
        scheduler: See `NetworkModule`.

    Raises:
        ArgumentError: If the proxy does not match the codec or a pair's quality, a pair's λ is out of the
            network's range, or a number is out of range.
    """

    network: NPP
    codec_loop: CodecLoop

    def __init__(
        self,
        network: NPP,
        proxy: Proxy,
        task: SplitTask,
        codec_loop: CodecLoop,
        *,
        pairs: Sequence[tuple[float, float]],
        drawing: Drawing = "per_batch",
        supervision: Supervision = "pseudo",
        task_weight: float = 1.0,
        fidelity_weight: float = 0.5,
        rate_weight: float = 1.0,
        pseudo_score: float = 0.3,
        feature_share: float = 1.0,
        at_reader: bool = False,
        importance: Importance | None = None,
        importance_share: float = 0.5,
        learning_rate: float = 1e-4,
        max_norm: float = 1.0,
        schedule: Schedule = "plateau",
        plateau_epochs: int = 20,
        plateau_factor: float = 0.5,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | LRSchedule | None = None,
    ) -> None:
        check_stands_in(proxy, codec_loop)
        # Frozen but in training mode: noisy symbols give a better gradient of the rate.
        proxy.requires_grad_(False).train()
        super().__init__(
            network,
            (proxy, task, *_parts_of(importance)),
            learning_rate=learning_rate,
            max_norm=max_norm,
            schedule=schedule,
            plateau_epochs=plateau_epochs,
            plateau_factor=plateau_factor,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        self.save_hyperparameters(
            ignore=["network", "proxy", "task", "codec_loop", "importance", "optimizer", "scheduler"]
        )
        self.pairs = _check_pairs(pairs, network, proxy, codec_loop)
        self.weights = {
            name: check_between(name, value, 0, math.inf)
            for name, value in (
                ("rate_weight", rate_weight),
                ("fidelity_weight", fidelity_weight),
                ("task_weight", task_weight),
            )
        }
        if drawing not in get_args(Drawing):
            raise ArgumentError("drawing", expected=" or ".join(get_args(Drawing)), got=drawing)
        self.drawing, self.at_reader = drawing, at_reader
        if at_reader and supervision == "labels":
            raise ArgumentError(
                "at_reader",
                expected="false, because labels are in pixels of the original images",
                got=at_reader,
            )
        self.importance = _check_importance(importance, proxy, task, codec_loop)
        self.importance_share = check_between("importance_share", importance_share, 0, 1)
        self.codec_loop = codec_loop
        self._parts = (proxy, task)  # frozen, and no part of this module's checkpoints
        self.guide = TaskSupervision(task, supervision, pseudo_score, feature_share=feature_share)
        self.val_metrics = nn.ModuleList(PairMetrics(task) for _ in self.pairs)
        self._memory: Memory[tuple[Sequence[Guide], list[Target]]] = Memory()

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Compute the loss of crops; 0 if the codec fails on all of them."""
        del batch_index
        x = crops_of(batch)
        _check_can_normalize(x, self.network.stride)
        pairs = self._draw(len(x))
        lmbdas, qualities = x.new_tensor(pairs).unbind(dim=1)
        proxy, _ = self._parts
        filtered: Tensor = self.network(x, lmbdas).float()
        offsets = self._offsets(x, self.importance_share)
        coded = self.codec_loop.start(filtered, [quality for _, quality in pairs], batch.image_ids, **offsets)
        proxied = proxy(filtered, qualities, **offsets)
        guides = self.guide.guides(list(x), batch.targets)
        outcome = coded()
        kept = outcome.kept
        self.log_dict({"train/codec_failures": float(self.codec_loop.num_failures)}, prog_bar=True)
        if len(kept) == 0:
            return 0 * filtered.sum()  # other processes wait for gradients
        decoded = straight_through(outcome.decoded, proxied.x_hat.float()[kept])
        estimated = proxied.bpp.float()[kept]
        if proxy.relative_rate:
            estimated = estimated * (outcome.bpp / estimated.detach().clamp(min=1e-9))
        bpp = straight_through(outcome.bpp, estimated).mean()
        distortion = (filtered - x)[kept].pow(2).mean()
        kept_guides = [guides[place] for place in kept.tolist()]
        if self.drawing == "per_batch":
            task_loss = self.guide.loss(list(decoded), kept_guides)
            weighted = pairs[0][0] * task_loss
        else:
            losses = self.guide.losses(list(decoded), kept_guides)
            task_loss, weighted = losses.mean(), (lmbdas[kept] * losses).mean()
        loss = self._loss(bpp, distortion, weighted)
        self.log_dict(
            {
                "train/loss": loss.detach(),
                "train/bpp": bpp.detach(),
                "train/task_loss": task_loss.detach(),
            },
            prog_bar=True,
        )
        return loss

    def _offsets(self, images: Tensor, share: float) -> dict[str, Any]:
        """Return the keyword arguments of codec and proxy for QP offsets on a share of the images."""
        importance = self.importance
        if importance is None:
            return {}
        pixels = (255 * images.detach()).round().to(torch.uint8)
        drawn = (torch.rand(len(images)) < share).tolist()
        with torch.autocast(images.device.type, enabled=False):
            offsets = [
                importance.offsets(image, self._parts[1]) if coded_with else None
                for image, coded_with in zip(pixels, drawn, strict=True)
            ]
        return {"offsets": offsets, "block": importance.block}

    def _draw(self, count: int) -> list[tuple[float, float]]:
        """Draw a pair for each image of a batch."""
        if self.drawing == "per_batch":
            return [self.pairs[int(torch.randint(len(self.pairs), ()))]] * count
        return [self.pairs[place] for place in torch.randint(len(self.pairs), (count,)).tolist()]

    def _loss(self, bpp: Tensor, distortion: Tensor, task_loss: Tensor) -> Tensor:
        """w_r·bpp + w_x·MSE(x̄, x) + w_t·(λ·L_task)."""
        weights = self.weights
        return (
            weights["rate_weight"] * bpp
            + weights["fidelity_weight"] * distortion
            + weights["task_weight"] * task_loss
        )

    # --- validation ---------------------------------------------------------------------------------------

    def metric_groups(self) -> dict[str, MetricGroup]:
        """One group for each pair, named "λ@quality"."""
        return {
            f"{lmbda:g}@{quality:g}": metrics
            for (lmbda, quality), metrics in zip(self.pairs, self._pair_metrics(), strict=True)
        }

    def _pair_metrics(self) -> list[PairMetrics]:
        return [metrics for metrics in self.val_metrics if isinstance(metrics, PairMetrics)]

    def validate_image(self, image: Tensor, batch: Batch, place: int) -> None:
        """Run a whole image through the real codec at every pair."""
        if self.at_reader:
            image = scale_to_reader((255 * image).round().to(torch.uint8), self._parts[1]).float() / 255
        x = image[None]
        waiting, offsets = [], self._offsets(x, 1)
        for lmbda, quality in self.pairs:
            filtered = self.network(x, lmbda).float()
            start = self.codec_loop.start(filtered, quality, [batch.image_ids[place]], **offsets)
            waiting.append((filtered, start))
        guide, label = self._memory(
            image,
            lambda: (self.guide.guides([image], [batch.targets[place]]), self.guide.pseudo_labels([image])),
            batch.image_ids[place],
        )
        for (lmbda, _), metrics, (filtered, coded) in zip(
            self.pairs, self._pair_metrics(), waiting, strict=True
        ):
            outcome = coded()
            if len(outcome.kept):
                distortion = (filtered - x).pow(2).mean()
                task_loss = self.guide.loss(list(outcome.decoded), guide)
                metrics.bpp.update(outcome.bpp, x.shape[-1] * x.shape[-2])
                metrics.loss.update(self._loss(outcome.bpp.mean(), distortion, lmbda * task_loss))
                metrics.task_loss.update(task_loss)
                metrics.mse.update(distortion)
                metrics.accuracy.update(self._parts[1].predict(list(outcome.decoded)), label)

    def save_model(self, path: Path, **notes: str) -> None:
        """Write the network and its (λ, quality) pairs to a model file; see `load_preprocessor`."""
        pairs = json.dumps({"codec": self.codec_loop.name, "pairs": self.pairs})
        save_preprocessor(self.network, path, **notes, pairs=pairs)


def _parts_of(importance: Importance | None) -> list[nn.Module]:
    """Return the networks that an importance map needs, beside the module's own task."""
    parts = (importance.task, importance.network) if isinstance(importance, Importance) else ()
    return [part for part in parts if part is not None]


def _check_importance(
    importance: Importance | None, proxy: Proxy, task: SplitTask, codec_loop: CodecLoop
) -> Importance | None:
    """Check that codec and proxy take QP offsets."""
    if importance is None:
        return None
    if not isinstance(importance, Importance):
        raise ArgumentError("importance", expected="a vcm.encoding.Importance", got=type(importance).__name__)
    check_takes_offsets(codec_loop.codec(codec_loop.scale.check(proxy.qualities[0])))
    if not proxy.takes_offsets:
        raise ArgumentError(
            "importance",
            expected=f"null, because {type(proxy).__name__} takes no QP offsets",
            got=type(importance).__name__,
            remedy="Use proxy=transform.",
        )
    if importance.needs_task:
        check_split_task("task", task, "an importance map")
    return importance


def _check_pairs(
    pairs: Sequence[tuple[float, float]], network: NPP, proxy: Proxy, codec_loop: CodecLoop
) -> list[tuple[float, float]]:
    """Check the pairs against network, proxy and codec."""
    expected = "(λ, quality) pairs, at least one"
    if (
        not isinstance(pairs, Sequence)
        or not pairs
        or any(not isinstance(pair, Sequence) or len(pair) != 2 for pair in pairs)
    ):
        raise ArgumentError("pairs", expected=expected, got=pairs)
    checked = [(check_positive("lmbda", lmbda), codec_loop.scale.check(quality)) for lmbda, quality in pairs]
    for lmbda, quality in checked:
        low, high = proxy.qualities
        if not low <= quality <= high:
            raise ArgumentError(
                "pairs",
                expected=f"qualities from {low:g} to {high:g}, the range of the proxy",
                got=quality,
                remedy="Train a proxy for these qualities.",
            )
        if isinstance(network, QuantizationAdaptiveNPP):
            network.check_lmbda(lmbda)
    if len({lmbda for lmbda, _ in checked}) > 1 and not isinstance(network, QuantizationAdaptiveNPP):
        raise ArgumentError(
            "pairs",
            expected="pairs of one λ for an NPP that is not quantization-adaptive",
            got=checked,
            remedy="Use network=qa_npp.",
        )
    return checked


def _check_can_normalize(x: Tensor, stride: int) -> None:
    """Raise ArgumentError if the coarsest feature map has one value per channel, hence no variance."""
    if len(x) == 1 and max(x.shape[-2:]) <= stride:
        raise ArgumentError(
            "batch",
            expected=f"at least two crops, or crops larger than {stride}×{stride} pixels",
            got=tuple(x.shape),
            remedy="Raise data.batch_size or data.crop_size.",
        )
