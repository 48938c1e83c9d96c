"""Find the quality at which a codec keeps a task's predictions, with few evaluations."""

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
"""Number of qualities tried first, spread evenly over the scale."""

Encode = Callable[[Tensor, float], tuple[int, Prediction]]
"""Maps an image and a quality to the stream length in bytes and the prediction on the decoded image."""


def kept(found: Prediction, true: Prediction) -> tuple[int, int]:
    """Count the predictions on an original image, and how many of them remain on the decoded image.

    A detection with a score of at least 0.3 is kept if a distinct detection of the same class with a score of
    at least 0.2 overlaps it with an IoU of at least 0.5. The second threshold is lower because noise alone
    moves scores across a single threshold. For a classifier, the top class is compared.

    Args:
        found: Prediction on the decoded image.
        true: Prediction on the original.

    Returns:
        Number of kept predictions, and number of predictions on the original.
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
    for row in range(len(boxes)):  # by descending score, the order of detections
        if overlap.shape[1] and float(overlap[row].max()) >= MIN_IOU:
            overlap[:, int(overlap[row].argmax())] = 0
            matched += 1
    return matched, len(boxes)


@dataclass(frozen=True)
class Measured:
    """Measurement of one quality.

    Attributes:
        quality: Quality on the codec's scale.
        agreement: Share of the task's predictions on the originals that is kept, in [0, 1]; see `kept`.
        num_bytes: Mean stream length per image in bytes.
    """

    quality: float
    agreement: float
    num_bytes: float


@dataclass
class Search:
    """Search over the qualities of one codec; each quality is measured once.

    Args:
        scale: The codec's quality scale.
        encode: Encodes an image at a quality and runs the task on the decoded image.
        images: RGB images (3, H, W), uint8.
        originals: The task's predictions on them.
    """

    scale: QualityScale
    encode: Encode
    images: Sequence[Tensor]
    originals: Sequence[Prediction]
    tried: dict[float, Measured] = field(default_factory=dict)

    def at(self, quality: float) -> Measured:
        """Measure a quality."""
        quality = self.scale.check(round(quality) if self.scale.integer else quality)
        if quality not in self.tried:
            coded = [self.encode(image, quality) for image in self.images]
            counts = [kept(found, true) for (_, found), true in zip(coded, self.originals, strict=True)]
            share = sum(number for number, _ in counts) / max(1, sum(number for _, number in counts))
            self.tried[quality] = Measured(quality, share, fmean(size for size, _ in coded))
        return self.tried[quality]

    def for_agreement(self, wanted: float) -> Measured | None:
        """Return the coarsest quality from which on the share is kept at every measured quality.

        If the finest quality does not keep it, return the finest measured quality that does; None if there is
        none.
        """
        return self._coarsest(lambda measured: measured.agreement >= wanted)

    def for_bytes(self, most: float) -> Measured | None:
        """Return the finest measured quality of at most `most` bytes per image; None if there is none."""
        coarser = self._coarsest(lambda measured: measured.num_bytes > most)
        if coarser is None:
            return self._by_fineness()[-1]
        below = [m for m in self._by_fineness() if m.num_bytes <= most]
        return below[-1] if below else None

    def _coarsest(self, is_enough: Callable[[Measured], bool]) -> Measured | None:
        """Bisect between measured qualities, assuming that `is_enough` is monotonic in the quality."""
        low, high = self.scale.low, self.scale.high
        for step in range(_NUM_FIRST):
            self.at(low + (high - low) * step / (_NUM_FIRST - 1))
        while True:
            ordered = self._by_fineness()
            # Start from the finest failure, so that a coarse quality that passes by luck does not count.
            not_enough = [number for number, measured in enumerate(ordered) if not is_enough(measured)]
            first = max(not_enough) + 1 if not_enough else 0
            if first == len(ordered):  # the finest fails; a coarser one may still pass, by noise
                return next((m for m in reversed(ordered) if is_enough(m)), None)
            if first == 0:
                return ordered[0]
            before, after = ordered[first - 1].quality, ordered[first].quality
            if abs(after - before) <= (1 if self.scale.integer else (high - low) / 100):
                return ordered[first]
            middle = (before + after) / 2
            self.at(math.floor(middle) if self.scale.integer else middle)

    def _by_fineness(self) -> list[Measured]:
        """Return the measurements, coarsest quality first."""
        sign = 1 if self.scale.higher_is_better else -1
        return sorted(self.tried.values(), key=lambda measured: sign * measured.quality)


def check_agreement(value: float) -> float:
    """Validate a share in (0, 1].

    Raises:
        ArgumentError: If the value is out of range.
    """
    if not is_number(value) or not 0 < value <= 1:
        raise ArgumentError("--agreement", expected="a share in (0, 1], such as 0.9", got=value)
    return float(value)
