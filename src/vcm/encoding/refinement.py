"""Refine an image's pixels by gradient steps through BPG."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vcm.codecs import BPGCodec
from vcm.nn.hardware import cpu_has_bf16
from vcm.nn.proxy.transform import quantization_steps, transform_bits
from vcm.tasks import SplitTask
from vcm.tasks.distance import image_distance

OnStep = Callable[[int, int], None]
"""Progress callback; receives the steps done and the total."""

_PRESET = "medium"
"""Slowest x265 preset used during the search; the codec's own preset is used for the final comparison."""
_BETAS = (0.8, 0.99)
_LAST_RATE = 0.1
"""Final learning rate relative to the first, at the end of the cosine schedule."""


@dataclass(frozen=True)
class _Iterate:
    """One iterate: pixels (3, H, W) uint8, bits, task distance and its gradient."""

    pixels: Tensor
    bits: int
    distance: float
    gradient: Tensor


def _learning_rate(effort: int) -> float:
    """Return Adam's initial learning rate for pixels in [0, 1]; it is larger for fewer steps."""
    return float(min(max(0.0035 * (30 / effort) ** 0.3, 0.0025), 0.006))


class Refinement:
    """Search for one image; see `vcm.encoding.search.ImageSearch`.

    Args:
        task: Task whose features and outputs are preserved.
        codec: Codec that is not lossless.
        image: Original x, (3, H, W) uint8 RGB.
        start: Starting point x̄₀ of the same shape.
        offsets: QP offsets of the blocks; None for none.
        block: Block size in pixels.
        weight: Weight of the relative task error; the relative rate has weight 1.
        feature_share: Weight of the feature error in the task error; see `vcm.tasks.distance.image_distance`.
    """

    def __init__(
        self,
        task: SplitTask,
        codec: BPGCodec,
        *,
        image: Tensor,
        start: Tensor,
        offsets: Tensor | None,
        block: int,
        weight: float,
        feature_share: float,
    ) -> None:
        self.task, self.codec = task, codec
        self.weight, self.feature_share = weight, feature_share
        self.image, self.start, self.offsets, self.block = image, start, offsets, block
        self.device = task.device
        self.half = self.device.type == "cuda" or cpu_has_bf16()

    def run(self, effort: int, on_step: OnStep | None = None) -> Tensor:
        """Run `effort` steps (at least 1) and return the refined image (3, H, W), uint8."""
        with torch.inference_mode(False):
            self.distance = image_distance(self.task, self.feature_share)(self._pixels(self.image)[None])
            return self._run(effort, on_step)

    def _run(self, effort: int, on_step: OnStep | None) -> Tensor:
        weight = self.weight
        fast = self.codec.with_preset_up_to(_PRESET)
        steps = quantization_steps(
            self.codec.slice_qp, self.offsets, self.block, self.image.shape[-2:], self.device
        )
        first = best = self._measured(self.start, fast)
        if not (first.distance > 0 and math.isfinite(first.distance)):
            return self.start
        best_objective = 1 + weight
        v = self._pixels(self.start)
        first_rate = _learning_rate(effort)
        optimizer = torch.optim.Adam([v.requires_grad_(True)], lr=first_rate, betas=_BETAS)
        iterate = first
        for step in range(effort):
            rate = transform_bits(v, steps)
            (gradient,) = torch.autograd.grad(rate, v)
            scale = iterate.bits / max(float(rate.detach()), 1e-9)
            v.grad = scale * gradient / first.bits + weight * iterate.gradient / first.distance
            if not v.grad.isfinite().all():
                break
            cosine = (1 + math.cos(math.pi * step / effort)) / 2
            optimizer.param_groups[0]["lr"] = first_rate * (_LAST_RATE + (1 - _LAST_RATE) * cosine)
            optimizer.step()
            with torch.no_grad():
                v.clamp_(0, 1)
            iterate = self._measured((v.detach() * 255).round().to(torch.uint8).cpu().contiguous(), fast)
            objective = iterate.bits / first.bits + weight * iterate.distance / first.distance
            if not math.isfinite(objective):
                break
            if objective < best_objective:
                best, best_objective = iterate, objective
            if on_step is not None:
                on_step(step + 1, effort)
        return self.start if best is first else self._better_of(best.pixels)

    def _better_of(self, found: Tensor) -> Tensor:
        """Return the refined pixels, or the start if it is better with the actual codec in float32."""
        bits, distances = [], []
        for pixels in (found, self.start):
            data = self.codec.encode(pixels, self.offsets, block=self.block)
            bits.append(8 * len(data))
            with torch.no_grad():
                distances.append(float(self.distance(self._pixels(self.codec.decode(data))[None])))
        if not distances[1] > 0:
            return self.start
        relative = bits[0] / bits[1] + self.weight * distances[0] / distances[1]
        return found if relative < 1 + self.weight else self.start

    def _measured(self, pixels: Tensor, codec: BPGCodec) -> _Iterate:
        data = codec.encode(pixels, self.offsets, block=self.block)
        decoded = self._pixels(codec.decode(data)).requires_grad_(True)
        with (
            torch.enable_grad(),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half),
        ):
            distance = self.distance(decoded[None])
        (gradient,) = torch.autograd.grad(distance, decoded)
        return _Iterate(pixels, 8 * len(data), float(distance.detach()), gradient)

    def _pixels(self, image: Tensor) -> Tensor:
        """Convert to (3, H, W) in [0, 1], in channels-last layout, which makes convolutions faster."""
        pixels = image.to(self.device).float() / 255
        return pixels[None].contiguous(memory_format=torch.channels_last)[0]
