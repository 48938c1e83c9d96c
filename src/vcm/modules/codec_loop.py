"""Real codec in the training loop."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vcm.codecs import Codec, CodecPool
from vcm.codecs.pool import Failure, RoundTrip
from vcm.encoding.reader import WithOffsets, check_takes_offsets
from vcm.errors import ArgumentError, CodecError
from vcm.nn.proxy import Proxy
from vcm.types import QualityScale, Settings
from vcm.validation import check_between

_WINDOW = 200
"""Images over which failures are counted."""
_log = logging.getLogger(__name__)
_WITHOUT_EFFECT = {
    *("name", "quality", "implementation"),
    *("preset", "speed", "effort", "method", "optimize", "progressive", "integrity_hash"),
}
"""Codec settings that change size and speed but not the meaning of a quality."""


@dataclass(frozen=True, eq=False)
class Coded:
    """Decoded images and rates of a batch, without images on which the codec failed.

    Attributes:
        decoded: (K, 3, H, W) float32 in [0, 1], on the images' device.
        bpp: (K,) bits per pixel of the bitstreams, with headers.
        kept: (K,) int64 indices into the batch.
    """

    decoded: Tensor
    bpp: Tensor
    kept: Tensor


class CodecLoop:
    """A real codec in the training loop, on threads in this process.

    An image on which the codec fails is skipped, counted and reported; training stops only if that happens
    too often.

    Args:
        codec: Codec class, or a partial call with its settings; called with `quality`.
        workers: Number of threads; None for one per core.
        max_failures: Largest share of the last 200 images that may fail, in [0, 1].

    Attributes:
        scale: Quality scale of the codec.
        name: Name of the codec.
        conventions: Settings of the codec that affect the meaning of a quality.
        num_images: Number of images so far.
        num_failures: Number of images on which the codec failed.

    Raises:
        ArgumentError: If a number is out of range, or `codec` does not return a codec.
    """

    def __init__(
        self, codec: Callable[..., Codec], *, workers: int | None = None, max_failures: float = 0.1
    ) -> None:
        made = codec()
        if not isinstance(made, Codec):
            raise ArgumentError(
                "codec",
                expected="a vcm.codecs.Codec class, or a partial call of one",
                got=type(made).__name__,
            )
        self.scale: QualityScale = made.quality_scale
        self.name: str = made.name
        self.conventions: Settings = {
            name: value for name, value in made.settings().items() if name not in _WITHOUT_EFFECT
        }
        self.max_failures = check_between("max_failures", max_failures, 0, 1)
        self.num_images = self.num_failures = 0
        self._make = codec
        self._codecs: dict[float, Codec] = {}
        self._pool = CodecPool(workers=os.cpu_count() or 1 if workers is None else workers)
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="vcm-codec-loop")
        self._recent: deque[bool] = deque(maxlen=_WINDOW)

    def state_dict(self) -> dict[str, Any]:
        """Return the counts of images and failures, for a checkpoint."""
        return {"pictures": self.num_images, "failures": self.num_failures, "recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the counts of `state_dict`."""
        self.num_images, self.num_failures = state["pictures"], state["failures"]
        self._recent = deque(state["recent"], maxlen=_WINDOW)

    def codec(self, quality: float) -> Codec:
        """Return the codec at a quality.

        Raises:
            ArgumentError: If it is not on the codec's scale.
        """
        if quality not in self._codecs:
            self._codecs[quality] = self._make(quality=self.scale.check(quality))
        return self._codecs[quality]

    def start(
        self,
        images: Tensor,
        qualities: float | Sequence[float],
        image_ids: Sequence[str],
        *,
        offsets: Sequence[Tensor | None] | None = None,
        block: int = 32,
    ) -> Callable[[], Coded]:
        """Start to encode and decode a batch.

        Args:
            images: (N, 3, H, W) in [0, 1]; rounded to 8 bits, without a gradient.
            qualities: One quality for all images, or one per image.
            image_ids: Names of the images, for messages.
            offsets: QP offsets of each image's blocks, (rows, columns) int64; None for none.
            block: Block size of the offsets in pixels.

        Returns:
            A function that waits for the batch and returns it.

        Raises:
            ArgumentError: If a pixel is NaN or infinite, there is not one map per image, or the codec takes
                no offsets.
        """
        if not images.isfinite().all():
            raise ArgumentError(
                "images",
                expected="finite before the codec",
                got="NaN or infinity",
                remedy=f"Lower learning_rate; the batch was {', '.join(image_ids)}.",
            )
        pixels = (images.detach().float() * 255).round().clamp(0, 255).to(torch.uint8).cpu()
        one_each = qualities if isinstance(qualities, Sequence) else [qualities] * len(pixels)
        codecs = [self.codec(quality) for quality in one_each]
        if offsets is not None:
            if len(offsets) != len(pixels):
                raise ArgumentError(
                    "offsets", expected=f"one map or None for each of {len(pixels)} images", got=len(offsets)
                )
            for codec in codecs:
                check_takes_offsets(codec)
            codecs = [
                codec if those is None else WithOffsets(codec, those, block)
                for codec, those in zip(codecs, offsets, strict=True)
            ]
        running = self._starter.submit(self._pool.round_trip, codecs, list(pixels))
        return lambda: self._collect(running.result(), images, image_ids)

    def _collect(
        self, outcomes: Sequence[RoundTrip | Failure], images: Tensor, image_ids: Sequence[str]
    ) -> Coded:
        done = [(place, o) for place, o in enumerate(outcomes) if isinstance(o, RoundTrip)]
        failed = [o for o in outcomes if isinstance(o, Failure)]
        for failure in failed:
            _log.warning(
                "%s is skipped: %s failed to %s it: %s",
                image_ids[failure.index],
                self.name,
                failure.stage,
                failure.error,
            )
        self.num_images += len(outcomes)
        self.num_failures += len(failed)
        self._recent.extend(isinstance(outcome, Failure) for outcome in outcomes)
        if sum(self._recent) > self.max_failures * _WINDOW:
            raise CodecError(
                f"{self.name} failed on {sum(self._recent)} of the last {len(self._recent)} images, more "
                f"than max_failures={self.max_failures:g} of {_WINDOW} allows; the last: {failed[-1].error}"
            ) from failed[-1].error
        num_pixels = images.shape[-2] * images.shape[-1]
        device = images.device
        decoded = [o.image.to(device).float() / 255 for _, o in done]
        return Coded(
            decoded=torch.stack(decoded) if decoded else images.new_zeros((0, *images.shape[1:])),
            bpp=torch.tensor([o.num_bits / num_pixels for _, o in done], device=device),
            kept=torch.tensor([place for place, _ in done], dtype=torch.int64, device=device),
        )


def check_stands_in(proxy: Proxy, codec_loop: CodecLoop) -> None:
    """Raise ArgumentError unless the proxy was trained for the codec in the loop and its quality scale."""
    parts: tuple[tuple[str, object, type], ...] = (
        ("proxy", proxy, Proxy),
        ("codec_loop", codec_loop, CodecLoop),
    )
    for name, part, kind in parts:
        if not isinstance(part, kind):
            raise ArgumentError(
                name,
                expected=f"a {kind.__name__}",
                got=type(part).__name__,
                remedy=f"For `vcm train`, say {name}=….",
            )
    if proxy.codec != codec_loop.name:
        raise ArgumentError(
            "proxy",
            expected=f"trained for {codec_loop.name}, the codec in the loop",
            got=f"a proxy for {proxy.codec}",
            remedy=f"Train a proxy for {codec_loop.name}, or set codec_loop={proxy.codec}.",
        )
    for name, value in proxy.codec_settings.items():
        if codec_loop.conventions.get(name, value) != value:
            raise ArgumentError(
                "proxy",
                expected=f"trained for {codec_loop.name} with {name}={codec_loop.conventions[name]}",
                got=f"a proxy for {name}={value}",
                remedy=f"Train a proxy for this codec, or set codec_loop.codec.{name}={value}.",
            )
    for quality in proxy.qualities:
        if not codec_loop.scale.low <= quality <= codec_loop.scale.high:
            raise ArgumentError(
                "qualities",
                expected=f"{codec_loop.scale} ({codec_loop.scale.name} of {codec_loop.name})",
                got=proxy.qualities,
            )
