"""Find the quality of a codec that keeps given detections, by few evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor
from torchvision.ops import box_iou

from vcm.errors import ArgumentError
from vcm.types import Detections, Prediction, QualityScale
from vcm.validation import is_number

MIN_SCORE, KEPT_SCORE, MIN_IOU = 0.3, 0.2, 0.5
_NUM_FIRST = 5
"""Qualities that are tried first, spread over the scale."""

Encode = Callable[[Tensor, float], tuple[int, Prediction]]
"""From an image and a quality to the stream's bytes, and what the task finds after it."""


def kept(found: Prediction, true: Prediction) -> tuple[int, int]:
    """Count what a task finds in an original, and how much of that it also finds in a decoded image.

    A detection of a score of at least 0.3 is kept if one of the same class, of at least 0.2, overlaps it by
    an IoU of at least 0.5; each stands for one. The lower score is for those at the threshold, which noise
    alone would drop. Of a classifier the first class counts.

    Args:
        found: In the decoded image.
        true: In the original.

    Returns:
        What is kept, and what there is to keep.
    """
    if not isinstance(true, Detections) or not isinstance(found, Detections):
        assert not isinstance(true, Detections)
        assert not isinstance(found, Detections)
        return int(found.logits.argmax() == true.logits.argmax()), 1
    sought, there = true.scores >= MIN_SCORE, found.scores >= KEPT_SCORE
    boxes, labels = true.boxes[sought], true.labels[sought]
    overlap = box_iou(boxes, found.boxes[there])
    overlap = torch.where(labels[:, None] == found.labels[there], overlap, 0.0)
    matched = 0
    for row in range(len(boxes)):  # best first, as detections are
        if overlap.shape[1] and float(overlap[row].max()) >= MIN_IOU:
            overlap[:, int(overlap[row].argmax())] = 0
            matched += 1
    return matched, len(boxes)


@dataclass(frozen=True)
class Measured:
    """One quality, tried on the images.

    Attributes:
        quality: In the codec's scale.
        agreement: Share of the task's findings in all originals that is kept, from 0 to 1; see `kept`.
        num_bytes: Mean stream of an image.
    """

    quality: float
    agreement: float
    num_bytes: float


@dataclass
class Search:
    """Tries qualities of one codec on some images, each once.

    Args:
        scale: The codec's.
        encode: Encodes an image at a quality, and runs the task on what is decoded.
        images: (3, H, W) uint8 RGB.
        originals: What the task finds in them.
    """

    scale: QualityScale
    encode: Encode
    images: Sequence[Tensor]
    originals: Sequence[Prediction]
    tried: dict[float, Measured] = field(default_factory=dict)

    def at(self, quality: float) -> Measured:
        """Try a quality."""
        quality = self.scale.check(round(quality) if self.scale.integer else quality)
        if quality not in self.tried:
            coded = [self.encode(image, quality) for image in self.images]
            counts = [kept(found, true) for (_, found), true in zip(coded, self.originals, strict=True)]
            share = sum(number for number, _ in counts) / max(1, sum(number for _, number in counts))
            self.tried[quality] = Measured(quality, share, fmean(size for size, _ in coded))
        return self.tried[quality]

    def for_agreement(self, wanted: float) -> Measured | None:
        """The coarsest quality from which on this share is kept, as tried; else the finest that keeps it.

        None where no quality that was tried does.
        """
        return self._coarsest(lambda measured: measured.agreement >= wanted)

    def for_bytes(self, most: float) -> Measured | None:
        """The finest quality whose mean stream is no larger, as tried; None where none is."""
        coarser = self._coarsest(lambda measured: measured.num_bytes > most)
        if coarser is None:
            return self._by_fineness()[-1]
        below = [m for m in self._by_fineness() if m.num_bytes <= most]
        return below[-1] if below else None

    def _coarsest(self, is_enough: Callable[[Measured], bool]) -> Measured | None:
        """Bisect between tried qualities, taking what is enough to stay enough as quality rises."""
        low, high = self.scale.low, self.scale.high
        for step in range(_NUM_FIRST):
            self.at(low + (high - low) * step / (_NUM_FIRST - 1))
        while True:
            ordered = self._by_fineness()
            # From the last that is not enough: a lucky coarse quality does not count.
            not_enough = [number for number, measured in enumerate(ordered) if not is_enough(measured)]
            first = max(not_enough) + 1 if not_enough else 0
            if first == len(ordered):  # the finest is not enough; a coarser one may be, by luck or noise
                return next((m for m in reversed(ordered) if is_enough(m)), None)
            if first == 0:
                return ordered[0]
            before, after = ordered[first - 1].quality, ordered[first].quality
            if abs(after - before) <= (1 if self.scale.integer else (high - low) / 100):
                return ordered[first]
            middle = (before + after) / 2
            self.at(math.floor(middle) if self.scale.integer else middle)

    def _by_fineness(self) -> list[Measured]:
        """What was tried, coarsest first."""
        sign = 1 if self.scale.higher_is_better else -1
        return sorted(self.tried.values(), key=lambda measured: sign * measured.quality)


def check_agreement(value: float) -> float:
    """Return a share above 0, up to 1.

    Raises:
        ArgumentError: If it is not one.
    """
    if not is_number(value) or not 0 < value <= 1:
        raise ArgumentError("--agreement", expected="a share above 0, up to 1, such as 0.9", got=value)
    return float(value)
