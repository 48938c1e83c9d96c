"""Validation metrics."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from vcm.losses.rate_distortion import rate_distortion
from vcm.metrics.distortion import ms_ssim, psnr
from vcm.nn.layers import pad_to_multiple
from vcm.nn.slimmable import RECONSTRUCTION, MultiTaskNetwork
from vcm.tasks.base import pseudo_target
from vcm.tasks.distance import FeatureDistance, Reference
from vcm.types import Features, Prediction, Prepared


class MetricGroup(nn.Module):
    """Validation metrics as attributes; torchmetrics synchronizes their states over processes."""

    def compute(self) -> dict[str, Tensor]:
        """Return all values by name: those of a metric that returns several, or the metric's own name."""
        values: dict[str, Tensor] = {}
        for name, metric in self._metrics().items():
            value = metric.compute()
            values.update(value if isinstance(value, dict) else {name: value})
        return values

    def reset(self) -> None:
        """Reset the metrics."""
        for metric in self._metrics().values():
            metric.reset()

    def _metrics(self) -> dict[str, Metric]:
        return {name: metric for name, metric in self.named_children() if isinstance(metric, Metric)}


class WidthMetrics(MetricGroup, ABC):
    """Metrics of one width: `bpp` over all pixels of the originals, the others averaged over images.

    Args:
        lmbda: λ of the width's loss.
    """

    bpp: MeanMetric
    loss: MeanMetric

    def __init__(self, lmbda: float) -> None:
        super().__init__()
        self.lmbda = lmbda
        self.bpp, self.loss = MeanMetric(), MeanMetric()

    @abstractmethod
    def add(self, network: MultiTaskNetwork, image: Tensor) -> None:
        """Code one image, (3, H, W) in [0, 1], with rounded symbols, and update the metrics."""


class ReconstructionMetrics(WidthMetrics):
    """Metrics of the reconstruction width: `bpp`, `loss`, `psnr` in dB and `ms_ssim`."""

    def __init__(self, lmbda: float) -> None:
        super().__init__(lmbda)
        self.psnr, self.ms_ssim = MeanMetric(), MeanMetric()

    def add(self, network: MultiTaskNetwork, image: Tensor) -> None:
        """See `WidthMetrics.add`."""
        height, width = image.shape[-2:]
        output = network(pad_to_multiple(image[None], network.stride), RECONSTRUCTION)
        decoded = output.x_hat[..., :height, :width]
        outcome = rate_distortion(
            decoded, image[None], output.likelihoods.values(), height * width, self.lmbda
        )
        self.bpp.update(outcome.bpp, height * width)
        self.loss.update(outcome.loss)
        pair = [(x.float().clamp(0, 1) * 255).round().to(torch.uint8) for x in (decoded[0], image)]
        self.psnr.update(psnr(*pair))
        similarity = ms_ssim(*pair)  # NaN for small images, which do not count
        defined = not math.isnan(similarity)
        self.ms_ssim.update(similarity if defined else 0.0, float(defined))


class FeatureMetrics(WidthMetrics):
    """Metrics of a width with features: `bpp`, `loss`, `feature_error` and accuracy against pseudo-labels.

    Args:
        name: Task of the width.
        distance: Feature distance, reported as `feature_error`. Its task network is not part of this module's
            state.
        lmbda: λ of the width's loss.
        pseudo_score: Lowest score of a detection on the original that counts as a pseudo-label.
    """

    def __init__(self, name: str, distance: FeatureDistance, lmbda: float, pseudo_score: float) -> None:
        super().__init__(lmbda)
        self.name, self.pseudo_score = name, pseudo_score
        self.feature_error = MeanMetric()
        self.accuracy = distance.task.metric()
        self._distance = distance
        self._memory: Memory[tuple[Prepared, Reference, Prediction]] = Memory()

    def add(self, network: MultiTaskNetwork, image: Tensor) -> None:
        """See `WidthMetrics.add`; prepares the image as the task does."""
        task = self._distance.task
        prepared, reference, true = self._memory(image, lambda: self._originals(image))
        x, target = prepared.inputs, reference.target
        output = network(pad_to_multiple(x, network.stride), self.name)
        decoded = output.x_hat[..., : target.shape[-2], : target.shape[-1]]
        coded_pixels, pixels = x.shape[-2] * x.shape[-1], image.shape[-2] * image.shape[-1]
        likelihoods = output.likelihoods.values()
        distance = self._distance.to(reference)
        outcome = rate_distortion(
            decoded,
            target,
            likelihoods,
            coded_pixels,
            self.lmbda,
            distortion=lambda found, _: distance(found.float()),
        )
        self.bpp.update(outcome.bpp * coded_pixels / pixels, pixels)
        self.loss.update(outcome.loss)
        self.feature_error.update(outcome.distortion)
        found = task.tail(Features({task.cut: decoded.float()}, prepared.image_sizes))[0]
        self.accuracy.update([found], [pseudo_target(true, self.pseudo_score)])

    def _originals(self, image: Tensor) -> tuple[Prepared, Reference, Prediction]:
        """Compute a task's input, features and prediction for an original image."""
        task = self._distance.task
        prepared = task.prepare([image])
        reference = self._distance.reference(task.cut_feature(prepared).float())
        (true,) = task.tail(Features({task.cut: reference.target}, prepared.image_sizes))
        return prepared, reference, true


Value = TypeVar("Value")
_MAX_BYTES = 1 << 28


class Memory(Generic[Value]):
    """Least recently used cache of a function of images, by content.

    Args:
        max_bytes: Total size of cached tensors; larger values are not cached.
    """

    def __init__(self, max_bytes: int = _MAX_BYTES) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._kept: OrderedDict[bytes, tuple[Value, int]] = OrderedDict()

    def __call__(self, image: Tensor, compute: Callable[[], Value], name: str = "") -> Value:
        """Return the cached value of an image, or compute it.

        Args:
            image: The only argument of `compute` that may change.
            compute: Called if there is no cached value.
            name: Name of the image, if images of equal pixels may differ in other data, such as labels.
        """
        key = _key(image, name)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key][0]
        value = compute()
        size = _num_bytes(value)
        if size <= self.max_bytes:
            self._kept[key] = (value, size)
            self.num_bytes += size
        while self.num_bytes > self.max_bytes:
            _, (_, dropped) = self._kept.popitem(last=False)
            self.num_bytes -= dropped
        return value


def _key(image: Tensor, name: str) -> bytes:
    described = f"{tuple(image.shape)} {image.dtype} {image.device} {name}".encode()
    content = image.detach().cpu().contiguous().flatten().view(torch.uint8)  # NumPy has no bfloat16
    return hashlib.sha256(described + content.numpy().tobytes()).digest()


def _num_bytes(value: object) -> int:
    """Return the size of all tensors in nested mappings, sequences and dataclasses."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return sum(_num_bytes(part) for part in value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return sum(_num_bytes(part) for part in value)
    return 0
