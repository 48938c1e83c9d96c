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
from vcm.errors import ArgumentError
from vcm.losses.proxy import imitation
from vcm.metrics.fidelity import ProxyFidelity
from vcm.modules.base import NetworkModule, crops_of
from vcm.modules.codec_loop import CodecLoop, check_stands_in
from vcm.modules.metrics import MetricGroup
from vcm.modules.optimization import Schedule
from vcm.modules.schedules import LRSchedule, OptimizerFactory, SchedulerFactory
from vcm.nn.proxy import LearnedProxy, Proxy, save_proxy
from vcm.validation import check_between, check_positive

_NUM_VALIDATED = 3
"""Qualities at which a codec stage is validated."""


class _ProxyModule(NetworkModule):
    network: Proxy

    def save_model(self, path: Path, **notes: str) -> None:
        """Write a model file for `vcm.nn.proxy.load_proxy`."""
        save_proxy(self.network, path, **notes)


class ProxyCodecMetrics(MetricGroup):
    """Validation metrics of a proxy as a codec: `bpp`, `loss` and `psnr` in dB."""

    def __init__(self) -> None:
        super().__init__()
        self.bpp, self.mse, self.loss = MeanMetric(), MeanMetric(), MeanMetric()

    def compute(self) -> dict[str, Tensor]:
        """See `MetricGroup.compute`."""
        values = super().compute()
        values["psnr"] = -10 * values.pop("mse").log10()
        return values


class ImitationMetrics(MetricGroup):
    """Validation metrics of a proxy as an imitation: `loss`, and those of `ProxyFidelity`."""

    def __init__(self) -> None:
        super().__init__()
        self.fidelity, self.loss = ProxyFidelity(), MeanMetric()


class ProxyCodecModule(_ProxyModule):
    """First stage: training of a `LearnedProxy` as a codec for all qualities (Lu et al., 2024).

    ```
    x, a quality drawn for each image ─► proxy ─► x̂, bpp ─► bpp + λ(quality)·255²·MSE(x̂, x)
    ```

    λ is interpolated log-linearly between both ends. The factor of the estimated rate stays 1; the second
    stage trains it.

    Args:
        network: Proxy to train.
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
        ArgumentError: If a number is out of range.
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
                remedy="Other proxies are not codecs; train them with ProxyImitationModule only.",
            )
        if len(lmbda) != 2:
            raise ArgumentError(
                "lmbda", expected="two numbers, for the smallest and the largest quality", got=lmbda
            )
        self.log_lmbda = [math.log(check_positive("lmbda", value)) for value in lmbda]
        self.val_metrics = ProxyCodecMetrics()

    def parameter_groups(self) -> list[tuple[list[torch.nn.Parameter], float]]:
        """Return all parameters but the factor of the rate."""
        ((parameters, rate),) = super().parameter_groups()
        return [([p for p in parameters if p is not self.network.calibration], rate)]

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Compute the loss of crops, each at its own random quality."""
        del batch_index
        x = crops_of(batch)
        low, high = self.network.qualities
        bpp, _, loss = self._outcome(x, low + (high - low) * torch.rand(len(x), device=x.device))
        self.log_dict({"train/bpp": bpp.detach().mean(), "train/loss": loss.detach().mean()}, prog_bar=True)
        return loss.mean()

    def _outcome(self, x: Tensor, quality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute bpp, MSE and loss of each image."""
        output = self.network(x, quality)
        mse = (output.x_hat.float() - x).pow(2).mean(dim=(1, 2, 3))
        low, high = self.log_lmbda
        lmbda = torch.exp(low + (high - low) * self.network.condition(quality, x))
        return output.bpp, mse, output.bpp + lmbda * 255**2 * mse

    def metric_groups(self) -> dict[str, MetricGroup]:
        """One group, without a name."""
        return {"": self.val_metrics}

    def validate_image(self, image: Tensor, batch: Batch, place: int) -> None:
        """Code a whole image, with rounded symbols, at the smallest, middle and largest quality."""
        del batch, place
        for quality in self._validated():
            bpp, mse, loss = self._outcome(image[None], quality.to(image.device))
            self.val_metrics.bpp.update(bpp)
            self.val_metrics.mse.update(mse)
            self.val_metrics.loss.update(loss)

    def _validated(self) -> Tensor:
        low, high = self.network.qualities
        return torch.linspace(low, high, _NUM_VALIDATED)


class ProxyImitationModule(_ProxyModule):
    """Second stage: training of a proxy to imitate a real codec on the same images and qualities.

    ```
    x, quality ─┬─► codec, on threads ─► x̂, real bytes ┐
                └─► proxy ─► p, r_p ───────────────────┴─► MSE(p, x̂) / MSE(x̂, x) + w·(ln r_p − ln r)²
    ```

    The published proxy is fine-tuned for each rate; these losses give every quality the same weight. Half of
    the steps use noisy symbols, as training of a preprocessor does; the other half rounded symbols, as the
    fidelity metrics do.

    Args:
        network: Proxy to train.
        codec_loop: The real codec.
        rate_weight: w, 0 or more.
        validation_qualities: Qualities of validation; None for six over the proxy's range.
        learning_rate: Adam learning rate.
        max_norm: Largest gradient norm.
        schedule: See `NetworkModule`.
        plateau_epochs: See `NetworkModule`.
        plateau_factor: See `NetworkModule`.
        optimizer: See `NetworkModule`.
        scheduler: See `NetworkModule`.

    Raises:
        ArgumentError: If proxy and codec do not match, a quality is out of the codec's range, or a number is
            out of range.
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
        self.val_metrics = ImitationMetrics()

    def save_model(self, path: Path, **notes: str) -> None:
        """Write the proxy with the codec settings that it was trained for; see `load_proxy`."""
        super().save_model(path, **notes, codec_settings=json.dumps(self.codec_loop.conventions))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Compute the loss of crops at random qualities, for every other batch with rounded symbols."""
        self.network.train(batch_index % 2 == 0)
        x = crops_of(batch)
        quality = self._draw(len(x))
        coded = self.codec_loop.start(x, quality.tolist(), batch.image_ids)
        output = self.network(x, quality.to(x.device))
        outcome = coded()
        self.log_dict({"train/codec_failures": float(self.codec_loop.num_failures)}, prog_bar=True)
        if len(outcome.kept) == 0:
            nothing: Tensor = 0 * (output.bpp.sum() + output.x_hat.sum())
            return nothing  # other processes wait for gradients, of as many parameters
        decoded, bpp = output.x_hat[outcome.kept], output.bpp[outcome.kept]
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
        """Draw qualities in the proxy's range, on the codec's scale."""
        low, high = self._ends()
        if self.codec_loop.scale.integer:
            return torch.randint(int(low), int(high) + 1, (number,)).float()
        return low + (high - low) * torch.rand(number)

    def _ends(self) -> tuple[float, float]:
        """Return the smallest and largest quality of the proxy on the codec's scale."""
        low, high = self.network.qualities
        return (math.ceil(low), math.floor(high)) if self.codec_loop.scale.integer else (low, high)

    def metric_groups(self) -> dict[str, MetricGroup]:
        """One group, without a name."""
        return {"": self.val_metrics}

    def validate_image(self, image: Tensor, batch: Batch, place: int) -> None:
        """Compare proxy and codec on a whole image, with rounded symbols, at each validation quality."""
        x, several = image[None], len(self.validation_qualities)
        name = [batch.image_ids[place]] * several
        coded = self.codec_loop.start(x.expand(several, -1, -1, -1), self.validation_qualities, name)
        outputs = [self.network(x, quality) for quality in self.validation_qualities]
        outcome = coded()
        for row, number in enumerate(outcome.kept.tolist()):
            pair = (outputs[number].x_hat, outputs[number].bpp)
            codec = (outcome.decoded[row : row + 1], outcome.bpp[row : row + 1])
            self.val_metrics.fidelity.update(*pair, *codec, self.validation_qualities[number])
            loss = imitation(*pair, *codec, x=x, rate_weight=self.rate_weight).loss
            self.val_metrics.loss.update(loss)
