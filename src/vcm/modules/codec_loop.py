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
from vcm.errors import ArgumentError, CodecError
from vcm.nn.proxy import Proxy
from vcm.types import QualityScale, Settings
from vcm.validation import check_between

_WINDOW = 200
"""Images over which failures are counted."""
_log = logging.getLogger(__name__)
_OF_NO_MEANING = {
    *("name", "quality", "implementation"),
    *("preset", "speed", "effort", "method", "optimize", "progressive", "integrity_hash"),
}
"""Settings of codecs that change bytes and time, but not what a quality means."""


@dataclass(frozen=True, eq=False)
class Coded:
    """What the codec made of a batch, without the images on which it failed.

    Attributes:
        decoded: (K, 3, H, W) float32 in [0, 1], on the images' device.
        bpp: (K,) bits per pixel of the streams, header and all.
        kept: (K,) int64, their places in the batch.
    """

    decoded: Tensor
    bpp: Tensor
    kept: Tensor


class CodecLoop:
    """Encodes and decodes training batches on threads, in process, while the caller goes on.

    An image on which the codec fails is skipped, counted and reported; training stops only if that happens
    too often.

    Args:
        codec: Makes a codec of a quality: a class, or a partial call with its other settings.
        workers: Threads; None takes one a core.
        max_failures: Largest share of the last 200 images that may fail, from 0 to 1.

    Attributes:
        scale: The codec's scale of qualities.
        name: Its name.
        conventions: Its settings, without those that leave the meaning of a quality as it is.
        num_images: How many it was given.
        num_failures: On how many of them it failed.

    Raises:
        ArgumentError: If a number is out of its range, or `codec` makes something else.
    """

    def __init__(
        self, codec: Callable[..., Codec], *, workers: int | None = None, max_failures: float = 0.1
    ) -> None:
        made = codec()
        if not isinstance(made, Codec):
            raise ArgumentError(
                "codec", expected="what makes a vcm.codecs.Codec of a quality", got=type(made).__name__
            )
        self.scale: QualityScale = made.quality_scale
        self.name: str = made.name
        self.conventions: Settings = {
            name: value for name, value in made.settings().items() if name not in _OF_NO_MEANING
        }
        self.max_failures = check_between("max_failures", max_failures, 0, 1)
        self.num_images = self.num_failures = 0
        self._make = codec
        self._codecs: dict[float, Codec] = {}
        self._pool = CodecPool(workers=os.cpu_count() or 1 if workers is None else workers)
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="vcm-codec-loop")
        self._recent: deque[bool] = deque(maxlen=_WINDOW)

    def state_dict(self) -> dict[str, Any]:
        """The counts of failures, so that a resumed run goes on counting."""
        return {"pictures": self.num_images, "failures": self.num_failures, "recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.num_images, self.num_failures = state["pictures"], state["failures"]
        self._recent = deque(state["recent"], maxlen=_WINDOW)

    def codec(self, quality: float) -> Codec:
        """The codec at a quality.

        Raises:
            ArgumentError: If it is not on the codec's scale.
        """
        if quality not in self._codecs:
            self._codecs[quality] = self._make(quality=self.scale.check(quality))
        return self._codecs[quality]

    def start(
        self, images: Tensor, qualities: float | Sequence[float], image_ids: Sequence[str]
    ) -> Callable[[], Coded]:
        """Begin to encode and decode a batch; call what comes back for the outcome, and to wait for it.

        Args:
            images: (N, 3, H, W) in [0, 1]; rounded to 8 bits, as a codec takes them. No gradient flows.
            qualities: One for all, or one each.
            image_ids: One each, to tell which failed.

        Raises:
            ArgumentError: If an image is not finite: what made it has gone wrong.
        """
        if not images.isfinite().all():
            raise ArgumentError(
                "images",
                expected="finite, of what goes into the codec",
                got="NaN or infinity",
                remedy=f"Lower learning_rate; the batch was {', '.join(image_ids)}.",
            )
        pixels = (images.detach().float() * 255).round().clamp(0, 255).to(torch.uint8).cpu()
        one_each = qualities if isinstance(qualities, Sequence) else [qualities] * len(pixels)
        codecs = [self.codec(quality) for quality in one_each]
        running = self._starter.submit(self._pool.round_trip, codecs, list(pixels))
        return lambda: self._collect(running.result(), images, image_ids)

    def _collect(
        self, outcomes: Sequence[RoundTrip | Failure], images: Tensor, image_ids: Sequence[str]
    ) -> Coded:
        done = [(place, o) for place, o in enumerate(outcomes) if isinstance(o, RoundTrip)]
        failed = [o for o in outcomes if isinstance(o, Failure)]
        for failure in failed:
            _log.warning(
                "%s is left out of a step: %s failed to %s it: %s",
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
    """Raise ArgumentError unless the proxy is of the loop's codec, at qualities on its scale."""
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
            expected=f"one of {codec_loop.name}, the codec in the loop",
            got=f"one of {proxy.codec}",
            remedy=f"Train a proxy for {codec_loop.name}, or put {proxy.codec} into the loop.",
        )
    for name, value in proxy.codec_settings.items():
        if codec_loop.conventions.get(name, value) != value:
            raise ArgumentError(
                "proxy",
                expected=f"one of {codec_loop.name} with {name}={codec_loop.conventions[name]}, "
                "as the codec in the loop",
                got=f"one with {name}={value}",
                remedy="Train a proxy for this codec, or set the codec as it was for the proxy.",
            )
    for quality in proxy.qualities:
        if not codec_loop.scale.low <= quality <= codec_loop.scale.high:
            raise ArgumentError(
                "qualities",
                expected=f"{codec_loop.scale} ({codec_loop.scale.name} of {codec_loop.name})",
                got=proxy.qualities,
            )
