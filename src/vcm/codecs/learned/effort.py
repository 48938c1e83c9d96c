"""Encoder-side search of learned codecs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vcm.errors import ArgumentError, WeightsError
from vcm.nn.hardware import cpu_has_bf16
from vcm.validation import check_choice, check_whole, is_number

if TYPE_CHECKING:
    from torch import Tensor

    from vcm.codecs.learned.streams import Search, StreamCoder
    from vcm.nn.slimmable import LatentSearch, MultiTaskNetwork
    from vcm.nn.slimmable.search import Distortion

Metric = Literal["mse", "ms_ssim"]
Distance = Callable[["Tensor"], "Tensor"]
"""Of decoded features, (1, C, h, w), from the original's; a scalar with a gradient."""
Objective = Callable[["Tensor"], Distance]
"""From a task's input, (1, 3, H, W) in [0, 1], to the distance from its features."""

OnStep = Callable[[int, int], None]
"""Told the steps done and all of them."""

MAX_EFFORT = 10_000
NARROW_SHARE = 0.15
"""Of the λ that a narrow width was trained with: with it a search keeps about the rate of effort 0."""
_MS_SSIM_SCALE = 1640.0
"""λ for 1 − MS-SSIM by λ for 255² · MSE: as vcm's own model trades bits for either between its qualities, on
the corpus' validation part (1,600 to 1,840)."""
_SMALLEST_MS_SSIM = 161
"""Shortest side in pixels that MS-SSIM with five scales is defined for; its window has 11."""


class Effort:
    """How much an encoder searches for each image.

    Args:
        steps: Gradient steps an image (and tile, for large images); 0 searches nothing.
        lmbda: λ of bits / pixel + λ · 255² · distortion; None takes what the model file notes of its
            training.
        noted: λ of each of the model's qualities, from its file; empty where there are none.

    Raises:
        ArgumentError: If a number is out of its range.
    """

    def __init__(self, steps: int, lmbda: float | None, noted: Sequence[float]) -> None:
        self.steps = check_whole("effort", steps, 0, MAX_EFFORT)
        if lmbda is not None and (not is_number(lmbda) or not 0 < lmbda < math.inf):
            raise ArgumentError("lmbda", expected="a number above 0, or None", got=lmbda)
        self.given, self.noted = lmbda, noted

    def lmbda(self, quality: float) -> float:
        """λ at one of the model's qualities, between two of them geometrically interpolated.

        Raises:
            ArgumentError: If none is known.
        """
        if self.given is not None:
            return float(self.given)
        if not self.noted:
            raise ArgumentError(
                "lmbda",
                expected="λ of rate + λ · distortion, which this model's file does not note",
                got=None,
                remedy="Pass lmbda=…, or effort=0.",
            )
        below = min(int(quality), len(self.noted)) - 1
        share = quality - 1 - below
        if share == 0 or below + 1 == len(self.noted):
            return self.noted[below]
        above = below + 1
        return math.exp((1 - share) * math.log(self.noted[below]) + share * math.log(self.noted[above]))

    def narrow_lmbda(self, quality: float) -> float:
        """λ for a narrow width: what was given, or a share of what it was trained with."""
        return self.lmbda(quality) * (NARROW_SHARE if self.given is None else 1.0)


@dataclass(frozen=True)
class TrainingNote:
    """What a model file notes of a task's training.

    Attributes:
        lmbdas: λ at each of the model's qualities; empty where it is not noted.
        guides: Layers of the task's network at which features were compared; see
            `vcm.tasks.distance.FeatureDistance`.
    """

    lmbdas: tuple[float, ...] = ()
    guides: tuple[str, ...] = ()

    @classmethod
    def of(cls, network: MultiTaskNetwork, task: str) -> TrainingNote:
        """Read a network's own notes.

        Raises:
            WeightsError: If the note is damaged.
        """
        from vcm.nn.serialization import read_json

        try:
            note = read_json(network.notes.get("training", "{}"), "the note of training")
            lmbda, scales = note.get("lmbda", {}).get(task), note.get("quality_scales", [1.0])
            guides = note.get("guides", {}).get(task, [])
            lmbdas = () if lmbda is None else tuple(float(lmbda) * float(scale) for scale in scales)
            if not all(0 < value < math.inf for value in lmbdas):
                raise ValueError(f"λ are {lmbdas}")
            return cls(lmbdas, (guides,) if isinstance(guides, str) else tuple(map(str, guides)))
        except (ArgumentError, AttributeError, TypeError, ValueError) as error:
            raise WeightsError(f"the model's note of its training is damaged: {error}") from error


def image_search(
    streams: StreamCoder,
    x: Tensor,
    effort: Effort,
    *,
    metric: Metric,
    on_step: OnStep | None,
) -> Search | None:
    """Search for an image as people see it.

    Args:
        streams: Of the model's "reconstruction".
        x: The image, (1, 3, H, W) in [0, 1].
        effort: How much.
        metric: "mse", or "ms_ssim", which of tiles below 161 pixels a side is "mse" too.
        on_step: Called with the steps done and all of them.
    """
    if not effort.steps:
        return None
    import torch
    from pytorch_msssim import ms_ssim

    from vcm.nn.layers import pad_to_multiple
    from vcm.nn.slimmable.search import TILE, Area

    check_choice("metric", metric, ("mse", "ms_ssim"))
    height, width = x.shape[-2:]
    padded = pad_to_multiple(x.float(), streams.network.stride)

    def distortion(decoded: Tensor, area: Area) -> Tensor:
        rows, columns = (
            slice(p.start, min(p.stop, side)) for p, side in zip(area, (height, width), strict=True)
        )
        target = padded[..., rows, columns]
        found = decoded[..., : target.shape[-2], : target.shape[-1]].float()
        share = target.shape[-2] * target.shape[-1] / (height * width)  # of the image's mean
        if metric == "ms_ssim" and min(target.shape[-2:]) >= _SMALLEST_MS_SSIM:
            similarity: Tensor = ms_ssim(found.clamp(0, 1), target, data_range=1.0)
            return share * (1 - similarity) * _MS_SSIM_SCALE / 255**2
        return share * torch.nn.functional.mse_loss(found, target)

    lmbda = effort.lmbda(streams.quality)
    search = _latent_search(streams, effort.steps, lmbda, distortion, num_pixels=height * width, tile=TILE)
    return lambda y, symbols: search.run(y, symbols, on_step)


def feature_search(
    streams: StreamCoder,
    x: Tensor,
    effort: Effort,
    *,
    num_pixels: int,
    objective: Objective | None,
    on_step: OnStep | None,
) -> Search | None:
    """Search for a task's features.

    Args:
        streams: Of one of the model's tasks.
        x: The task's input, (1, 3, H, W) in [0, 1].
        effort: How much.
        num_pixels: Of the original image.
        objective: The task's distance.
        on_step: Called with the steps done and all of them.

    Raises:
        ArgumentError: If there is no objective.
    """
    if not effort.steps:
        return None
    expected = "with effort a task's distance, such as vcm.tasks.distance.feature_objective gives"
    if not callable(objective):
        raise ArgumentError("objective", expected=expected, got=objective)
    distance = objective(x.float())
    if not callable(distance):
        raise ArgumentError("objective", expected=expected, got=f"one that returns {distance!r}")
    stride = streams.network.features[streams.task].stride
    places = tuple(-(-side // stride) for side in x.shape[-2:])

    def distortion(decoded: Tensor, _: object) -> Tensor:
        return distance(decoded[..., : places[0], : places[1]])

    lmbda = effort.narrow_lmbda(streams.quality)
    search = _latent_search(streams, effort.steps, lmbda, distortion, num_pixels=num_pixels, tile=None)
    return lambda y, symbols: search.run(y, symbols, on_step)


def _latent_search(
    streams: StreamCoder,
    steps: int,
    lmbda: float,
    distortion: Distortion,
    *,
    num_pixels: int,
    tile: int | None,
) -> LatentSearch:
    from vcm.nn.slimmable.search import LatentSearch

    device = next(streams.network.parameters()).device
    half = device.type == "cuda" or cpu_has_bf16()
    return LatentSearch(
        streams.network,
        streams.task,
        streams.quality,
        distortion,
        num_pixels,
        lmbda,
        steps,
        half=half,
        tile=tile,
    )
