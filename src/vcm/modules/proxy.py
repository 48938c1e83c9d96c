"""Proxy training: as a codec, then as an imitation of one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from vcm.data import Batch
from vcm.deprecation import former_arguments
from vcm.errors import ArgumentError, WeightsError
from vcm.losses.proxy import imitation
from vcm.metrics.fidelity import ProxyFidelity
from vcm.modules.base import NetworkModule, crops_of
from vcm.modules.codec_loop import CodecLoop, check_stands_in
from vcm.modules.distributed import is_repeated
from vcm.modules.optimization import Schedule
from vcm.modules.schedules import LRSchedule, OptimizerFactory, SchedulerFactory
from vcm.nn.proxy import LearnedProxy, Proxy, load_proxy, save_proxy
from vcm.validation import check_between, check_positive

_NUM_VALIDATED = 3
"""Qualities at which a codec stage is validated."""


class _ProxyModule(NetworkModule):
    network: Proxy

    def save_model(self, path: Path, **notes: str) -> None:
        """Write the proxy to a file that `vcm.nn.proxy.load_proxy` reads."""
        save_proxy(self.network, path, **notes)

    def start_from(self, path: str | Path) -> None:
        """See `NetworkModule.start_from`."""
        other = load_proxy(path)
        if other.architecture() != self.network.architecture():
            raise WeightsError(f"{path} is of another architecture: {other.architecture()}.")
        self.network.load_state_dict(other.state_dict())


class ProxyCodecModule(_ProxyModule):
    """First stage: trains a `LearnedProxy` as a codec of its own, at every quality (Lu et al., 2024).

    ```
    x, a quality drawn for each image ─► proxy ─► x̂, bpp ─► bpp + λ(quality)·255²·MSE(x̂, x)
    ```

    Between the two ends λ is interpolated on a logarithmic scale. What scales the estimated rate stays 1
    here: it is for imitation.

    Args:
        network: The proxy.
        lmbda: λ at the proxy's smallest and largest quality. The defaults follow HEVC's trade-off,
            1 / (0.57·2^((QP − 12)/3)): 0.174 at QP 22 and 0.00108 at QP 44.
        learning_rate: Adam learning rate.
        max_norm: Largest gradient norm.
        schedule: See `NetworkModule`.
        plateau_epochs: See `NetworkModule`.
        plateau_factor: See `NetworkModule`.
        optimizer: See `NetworkModule`.
        scheduler: See `NetworkModule`.

    Raises:
        ArgumentError: If a number is out of its range.
    """

    network: LearnedProxy

    @former_arguments(weights="lmbda")
    def __init__(
        self,
        network: LearnedProxy,
        lmbda: Sequence[float] = (0.174, 0.00108),
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
            network,
            learning_rate=learning_rate,
            max_norm=max_norm,
            schedule=schedule,
            plateau_epochs=plateau_epochs,
            plateau_factor=plateau_factor,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        self.save_hyperparameters(ignore=["network", "optimizer", "scheduler"])
        if not isinstance(network, LearnedProxy):
            raise ArgumentError(
                "network",
                expected="a LearnedProxy",
                got=type(network).__name__,
                remedy="Other proxies are no codecs; train them with ProxyImitationModule only.",
            )
        if len(lmbda) != 2:
            raise ArgumentError(
                "lmbda", expected="two numbers, for the smallest and the largest quality", got=lmbda
            )
        self.log_lmbda = [math.log(check_positive("lmbda", value)) for value in lmbda]
        self.bpp, self.mse, self.loss = MeanMetric(), MeanMetric(), MeanMetric()

    def parameter_groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """All but the rate's scale."""
        ((parameters, rate),) = super().parameter_groups()
        return [([p for p in parameters if p is not self.network.calibration], rate)]

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of crops, each at a quality of its own."""
        del batch_index
        x = crops_of(batch)
        low, high = self.network.qualities
        bpp, _, loss = self._outcome(x, low + (high - low) * torch.rand(len(x), device=x.device))
        self.log_dict({"train/bpp": bpp.detach().mean(), "train/loss": loss.detach().mean()}, prog_bar=True)
        return loss.mean()

    def _outcome(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """bpp, MSE and loss of each image."""
        output = self.network(x, quality)
        mse = (output.decoded.float() - x).pow(2).mean(dim=(1, 2, 3))
        low, high = self.log_lmbda
        lmbda = torch.exp(low + (high - low) * self.network.condition(quality, x))
        return output.bpp, mse, output.bpp + lmbda * 255**2 * mse

    def on_validation_epoch_start(self) -> None:
        """Reset validation metrics."""
        for metric in (self.bpp, self.mse, self.loss):
            metric.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Whole images, with rounded symbols, at both ends and in the middle."""
        for place, image in enumerate(batch.images):
            if is_repeated(self.trainer.val_dataloaders, batch_index, place):
                continue
            for quality in self._validated():
                with torch.autocast(image.device.type, enabled=False):
                    bpp, mse, loss = self._outcome(image[None], quality.to(image.device))
                for metric, value in ((self.bpp, bpp), (self.mse, mse), (self.loss, loss)):
                    metric.update(value)

    def _validated(self) -> Tensor:
        low, high = self.network.qualities
        return torch.linspace(low, high, _NUM_VALIDATED)

    def on_validation_epoch_end(self) -> None:
        """Log the figures."""
        total = float(self.loss.compute())
        psnr = -10 * self.mse.compute().log10()
        self.log_dict({"val/bpp": self.bpp.compute(), "val/psnr": psnr}, sync_dist=True)
        self.log("val/loss", total, prog_bar=True, sync_dist=True)


class ProxyImitationModule(_ProxyModule):
    """Second stage: trains a proxy to do as a real codec does, on the same images at the same qualities.

    ```
    x, quality ─┬─► codec, on threads ─► x̂, real bytes ┐
                └─► proxy ─► p, r_p ───────────────────┴─► MSE(p, x̂) / MSE(x̂, x) + w·(ln r_p − ln r)²
    ```

    The published proxy is fine-tuned towards BPG at each rate; the losses are stated here so that every
    quality counts alike. Half of the steps see noisy symbols, whose gradient a preprocessor learns from; the
    other half rounded ones, as the proxy's fidelity is measured with.

    Args:
        network: The proxy, with parameters to train.
        codec_loop: The codec.
        rate_weight: w.
        validation_qualities: At which it is validated; None takes six over the proxy's range.
        learning_rate: Adam learning rate.
        max_norm: Largest gradient norm.
        schedule: See `NetworkModule`.
        plateau_epochs: See `NetworkModule`.
        plateau_factor: See `NetworkModule`.
        optimizer: See `NetworkModule`.
        scheduler: See `NetworkModule`.

    Raises:
        ArgumentError: If the proxy is of another codec or for qualities that it has not, or a number is out
            of its range.
    """

    codec_loop: CodecLoop

    def __init__(
        self,
        network: Proxy,
        codec_loop: CodecLoop,
        *,
        rate_weight: float = 1.0,
        validation_qualities: Sequence[float] | None = None,
        learning_rate: float = 1e-4,
        max_norm: float = 1.0,
        schedule: Schedule = "plateau",
        plateau_epochs: int = 20,
        plateau_factor: float = 0.5,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | LRSchedule | None = None,
    ) -> None:
        super().__init__(
            network,
            learning_rate=learning_rate,
            max_norm=max_norm,
            schedule=schedule,
            plateau_epochs=plateau_epochs,
            plateau_factor=plateau_factor,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        self.save_hyperparameters(ignore=["network", "codec_loop", "optimizer", "scheduler"])
        check_stands_in(network, codec_loop)
        if not any(parameter.requires_grad for parameter in network.parameters()):
            raise ArgumentError(
                "network", expected="a proxy with parameters to train", got=network.architecture()
            )
        self.codec_loop = codec_loop
        self.rate_weight = check_between("rate_weight", rate_weight, 0, math.inf)
        low, high = self._ends()
        steps = torch.linspace(low, high, 2 * _NUM_VALIDATED).tolist()
        chosen = [round(q) if codec_loop.scale.integer else q for q in steps]
        self.validation_qualities = list(chosen if validation_qualities is None else validation_qualities)
        if not self.validation_qualities:
            raise ArgumentError("validation_qualities", expected="at least one", got=validation_qualities)
        for quality in self.validation_qualities:
            codec_loop.codec(quality)
            network.condition(quality, torch.zeros(1))
        self.fidelity = ProxyFidelity()
        self.loss = MeanMetric()

    def save_model(self, path: Path, **notes: str) -> None:
        """Write the proxy, and for which settings of the codec it is; see `load_proxy`."""
        super().save_model(path, **notes, codec_settings=json.dumps(self.codec_loop.conventions))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Loss of crops, each at a quality of its own; for every other batch with rounded symbols."""
        self.network.train(batch_index % 2 == 0)
        x = crops_of(batch)
        quality = self._draw(len(x))
        coded = self.codec_loop.start(x, quality.tolist(), batch.image_ids)
        output = self.network(x, quality.to(x.device))
        outcome = coded()
        self.log_dict({"train/codec_failures": float(self.codec_loop.num_failures)}, prog_bar=True)
        if len(outcome.kept) == 0:
            nothing: Tensor = 0 * (output.bpp.sum() + output.decoded.sum())
            return nothing  # other processes wait for gradients, of as many parameters
        decoded, bpp = output.decoded[outcome.kept], output.bpp[outcome.kept]
        loss = imitation(
            decoded, bpp, outcome.decoded, outcome.bpp, x=x[outcome.kept], rate_weight=self.rate_weight
        )
        self.log_dict(
            {
                "train/loss": loss.loss.detach(),
                "train/image": loss.image.detach(),
                "train/rate": loss.rate.detach(),
            },
            prog_bar=True,
        )
        return loss.loss

    def _draw(self, number: int) -> Tensor:
        """Qualities over the proxy's range, on the codec's scale."""
        low, high = self._ends()
        if self.codec_loop.scale.integer:
            return torch.randint(int(low), int(high) + 1, (number,)).float()
        return low + (high - low) * torch.rand(number)

    def _ends(self) -> tuple[float, float]:
        """Smallest and largest quality of the proxy that the codec's scale has."""
        low, high = self.network.qualities
        return (math.ceil(low), math.floor(high)) if self.codec_loop.scale.integer else (low, high)

    def on_validation_epoch_start(self) -> None:
        """Reset validation metrics."""
        self.fidelity.reset()
        self.loss.reset()

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Whole images, with rounded symbols, at each of the validation qualities."""
        for place, image in enumerate(batch.images):
            if is_repeated(self.trainer.val_dataloaders, batch_index, place):
                continue
            x, several = image[None], len(self.validation_qualities)
            name = [batch.image_ids[place]] * several
            coded = self.codec_loop.start(x.expand(several, -1, -1, -1), self.validation_qualities, name)
            with torch.autocast(x.device.type, enabled=False):
                outputs = [self.network(x, quality) for quality in self.validation_qualities]
            outcome = coded()
            for row, number in enumerate(outcome.kept.tolist()):
                pair = (outputs[number].decoded, outputs[number].bpp)
                codec = (outcome.decoded[row : row + 1], outcome.bpp[row : row + 1])
                self.fidelity.update(*pair, *codec, self.validation_qualities[number])
                self.loss.update(imitation(*pair, *codec, x=x, rate_weight=self.rate_weight).loss)

    def on_validation_epoch_end(self) -> None:
        """Log the figures."""
        self.log_dict(
            {f"val/{name}": value for name, value in self.fidelity.compute().items()}, sync_dist=True
        )
        total = float(self.loss.compute())
        self.log("val/loss", total, prog_bar=True, sync_dist=True)
