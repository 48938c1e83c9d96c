"""Encoder-side search: an image's pixels, refined for a task before BPG encodes them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from vcm.codecs import BPGCodec, Codec
from vcm.codecs.options import check_whole
from vcm.errors import ArgumentError, WeightsError
from vcm.evaluation.provenance import deciding_versions
from vcm.files import read_bytes, write_bytes
from vcm.losses.transform_rate import BLOCK, transform_bits
from vcm.nn.hardware import cpu_has_bf16
from vcm.tasks import Task
from vcm.tasks.distance import image_distance
from vcm.types import Settings, is_number

OnStep = Callable[[int, int], None]
"""Called with the steps done and all of them."""

MAX_EFFORT = 10_000
_PRESET = "medium"
"""x265's preset between steps where the codec's own is slower: a third of veryslow's time."""
_BETAS = (0.8, 0.99)
_LAST_RATE = 0.1
"""Of the first learning rate, at the end of its cosine."""
_MAX_CACHED_BYTES = 1 << 30


@dataclass(frozen=True)
class SearchedImage:
    """What a search found.

    Attributes:
        image: (3, H, W) uint8 RGB, to be encoded.
        cached_s: Seconds of an earlier search, where the image comes from the cache; else 0.
    """

    image: Tensor
    cached_s: float = 0.0


@dataclass(frozen=True)
class ImageSearch:
    """Refine an image's pixels so that what BPG makes of them serves a task better at about the same bits.

    ```
    minimise over x̄:  bits(x̄) / bits(x̄₀) + weight · D(x̂(x̄), x) / D(x̂(x̄₀), x)
    ```

    Bits and the decoded image x̂ are BPG's own at every step. The gradient of D passes straight through the
    codec to x̄; that of the bits is an estimate from 8×8 DCT coefficients (`transform_bits`), scaled to BPG's
    bits. D is `vcm.tasks.distance.image_distance`: the relative error of the task's deep features, and a
    tenth of the divergence of its raw outputs. Adam starts from x̄₀, what would be encoded without a search;
    of all iterates the best one is compared with x̄₀ under the codec itself, so the objective is never worse.
    A step that is not finite ends the search. Nothing is random.

    Args:
        effort: Number of gradient steps, 0 for none, to 10,000.
        task: Whose features and outputs; None takes the system's own task.
        weight: Of the task's relative error beside the relative rate, above 0. With 1, an image keeps about
            its bits.
        feature_share: Of the features' error beside the outputs' divergence, from 0; other networks gain
            by it.
        cache: Folder that keeps refined images, so that other readers' evaluations of the same search do not
            repeat it; None for none.

    Raises:
        ArgumentError: If an argument is out of range.
    """

    effort: int
    task: Task | None = None
    weight: float = 1.0
    feature_share: float = 1.0
    cache: str | Path | None = None

    def __post_init__(self) -> None:
        check_whole("effort", self.effort, 0, MAX_EFFORT)
        if self.task is not None and not isinstance(self.task, Task):
            raise ArgumentError("search.task", expected="null or a vcm.tasks.Task", got=self.task)
        if not is_number(self.weight) or not 0 < self.weight < math.inf:
            raise ArgumentError("search.weight", expected="a finite number above 0", got=self.weight)
        if not is_number(self.feature_share) or not 0 <= self.feature_share < math.inf:
            raise ArgumentError(
                "search.feature_share", expected="a finite number from 0", got=self.feature_share
            )
        if self.cache is not None and not isinstance(self.cache, (str, Path)):
            raise ArgumentError("search.cache", expected="a folder or null", got=self.cache)

    def settings(self) -> Settings:
        """What decides the outcome, as plain JSON values; the system's own task is in its records anyway."""
        return {
            "effort": self.effort,
            "weight": float(self.weight),
            "feature_share": float(self.feature_share),
            "task": None if self.task is None else self.task.settings(),
        }

    def run(
        self,
        image: Tensor,
        start: Tensor,
        codec: Codec,
        task: Task,
        *,
        offsets: Tensor | None = None,
        block: int = 32,
        on_step: OnStep | None = None,
    ) -> SearchedImage:
        """Search for the pixels to encode.

        Args:
            image: x, (3, H, W) uint8 RGB: what the task should see.
            start: x̄₀, of the same shape: x itself, or x preprocessed.
            codec: A `BPGCodec`, not lossless.
            task: Whose features and outputs where none was given to the constructor.
            offsets: QP offsets, as the codec takes them; None for none.
            block: Side of their blocks in pixels.
            on_step: Called after each step with the steps done and all of them.

        Raises:
            ArgumentError: If the codec is another.
            CodecError: If it fails on x̄₀.
        """
        check_searchable(codec)
        if not self.effort:
            return SearchedImage(start)
        codec, reader = cast(BPGCodec, codec), self.task or task
        search = _Search(self, reader, codec, image=image, start=start, offsets=offsets, block=block)
        if self.cache is None:
            return SearchedImage(search.run(on_step))
        path = Path(self.cache) / f"{search.key()}.safetensors"
        if (found := _read_cached(path, image)) is not None:
            return found
        begun = time.perf_counter()
        refined = search.run(on_step)
        content = {"image": refined, "seconds": torch.tensor(time.perf_counter() - begun)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, safetensors.torch.save(content))
        return SearchedImage(refined)


def check_searchable(codec: Codec) -> None:
    """Raise ArgumentError unless a search can be made for this codec."""
    if not isinstance(codec, BPGCodec) or codec.lossless:
        raise ArgumentError(
            "effort",
            expected="0 with another codec than BPGCodec, and with a lossless one",
            got=f"a search before {codec!r}",
        )


@dataclass(frozen=True)
class _Iterate:
    """Pixels, (3, H, W) uint8, their bits and their distance, and the distance's gradient."""

    pixels: Tensor
    bits: int
    distance: float
    gradient: Tensor


def _learning_rate(effort: int) -> float:
    """Adam's first, for pixels in [0, 1]: larger for few steps."""
    return float(min(max(0.0035 * (30 / effort) ** 0.3, 0.0025), 0.006))


class _Search:
    """One search, of one image."""

    def __init__(
        self,
        settings: ImageSearch,
        task: Task,
        codec: BPGCodec,
        *,
        image: Tensor,
        start: Tensor,
        offsets: Tensor | None,
        block: int,
    ) -> None:
        self.settings, self.task, self.codec = settings, task, codec
        self.image, self.start, self.offsets, self.block = image, start, offsets, block
        self.device = next(task.parameters()).device
        self.half = self.device.type == "cuda" or cpu_has_bf16()

    def key(self) -> str:
        """A name for everything that decides the outcome."""
        described = {
            "search": {**self.settings.settings(), "task": None},
            "task": {name: value for name, value in self.task.settings().items() if name != "cut"},
            "codec": self.codec.settings(),
            "versions": deciding_versions(),
            "device": self.device.type,
            "half": self.half,
            "shape": list(self.image.shape),
            "block": self.block,
        }
        digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
        for tensor in (self.image, self.start, self.offsets):
            digest.update(b"\0" if tensor is None else tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def run(self, on_step: OnStep | None) -> Tensor:
        """The refined pixels, (3, H, W) uint8."""
        with torch.inference_mode(False):
            self.distance = image_distance(self.task, self.settings.feature_share)(
                self._pixels(self.image)[None]
            )
            return self._run(on_step)

    def _run(self, on_step: OnStep | None) -> Tensor:
        effort, weight = self.settings.effort, self.settings.weight
        fast = self.codec.with_preset_up_to(_PRESET)
        steps = quantization_steps(
            self.codec.slice_qp, self.offsets, self.block, self.image.shape[-2:], self.device
        )
        first = best = self._measured(self.start, fast)
        if not (first.distance > 0 and math.isfinite(first.distance)):
            return self.start
        objective = best_objective = 1 + weight
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
        """The refined pixels, or the start's where those are better by the codec itself, in float32."""
        bits, distances = [], []
        for pixels in (found, self.start):
            data = self.codec.encode(pixels, self.offsets, block=self.block)
            bits.append(8 * len(data))
            with torch.no_grad():
                distances.append(float(self.distance(self._pixels(self.codec.decode(data))[None])))
        weight = self.settings.weight
        is_better = bits[0] / bits[1] + weight * distances[0] / distances[1] < 1 + weight
        return found if distances[1] > 0 and is_better else self.start

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
        """(3, H, W) in [0, 1], with channels last, as convolutions take it faster."""
        pixels = image.to(self.device).float() / 255
        return pixels[None].contiguous(memory_format=torch.channels_last)[0]


def quantization_steps(
    qp: int, offsets: Tensor | None, block: int, size: tuple[int, int] | torch.Size, device: torch.device
) -> Tensor:
    """Quantization steps of an image's 8×8 blocks in 8-bit levels: 2^((QP − 4) / 6) of ITU-T H.265.

    Args:
        qp: The slice's.
        offsets: (rows, columns) QP offsets of blocks; None for none.
        block: Side of such a block in pixels, a multiple of 8.
        size: (height, width) of the image.
        device: Where the result lies.

    Returns:
        (⌈height / 8⌉, ⌈width / 8⌉).
    """
    rows, columns = (math.ceil(side / BLOCK) for side in size)
    qps = torch.full((rows, columns), float(qp), device=device)
    if offsets is not None:
        spread = F.interpolate(
            offsets.to(device).float()[None, None], scale_factor=block // BLOCK, mode="nearest"
        )
        qps += spread[0, 0, :rows, :columns]
    return ((qps.clamp(0, 51) - 4) / 6).exp2()


def _read_cached(path: Path, image: Tensor) -> SearchedImage | None:
    """What an earlier search left; None if there is none.

    Raises:
        WeightsError: If the file is damaged.
    """
    if not path.exists():
        return None
    try:
        content = safetensors.torch.load(read_bytes(path, limit=_MAX_CACHED_BYTES))
        found, seconds = content["image"], float(content["seconds"])
        if found.shape != image.shape or found.dtype != torch.uint8 or not 0 <= seconds < math.inf:
            raise ValueError(f"{tuple(found.shape)} {found.dtype}, {seconds} s")
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: not a cached search ({error}); delete it.") from error
    return SearchedImage(found, seconds)
