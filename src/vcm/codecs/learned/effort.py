"""Encoder-side search for learned codecs."""

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
"""Differentiable scalar distance of decoded features (1, C, h, w) from the original's."""
Objective = Callable[["Tensor"], Distance]
"""Maps a task's input, (1, 3, H, W) in [0, 1], to the distance from its features."""

OnStep = Callable[[int, int], None]
"""Progress callback; receives the steps done and the total."""

MAX_EFFORT = 10_000
NARROW_SHARE = 0.15
"""Share of a feature width's training λ with which the search keeps about the rate of effort 0."""
_MS_SSIM_SCALE = 1640.0
"""Ratio of the λ for 1 − MS-SSIM to the λ for 255² · MSE, measured as vcm's own model trades bits for either
between its qualities on the corpus' validation set (1,600 to 1,840)."""
_SMALLEST_MS_SSIM = 161
"""Shortest side in pixels for which five-scale MS-SSIM with an 11-pixel window is defined."""


class Effort:
    """Settings of the encoder-side search.

    Args:
        steps: Gradient steps per image (per tile of large images), in [0, 10000]; 0 for no search.
        lmbda: λ of bits / pixel + λ · 255² · distortion; None for the λ recorded in the model file.
        noted: λ of each of the model's qualities, from its file; empty if it has none.

    Raises:
        ArgumentError: If a number is out of range.
    """

    def __init__(self, steps: int, lmbda: float | None, noted: Sequence[float]) -> None:
        self.steps = check_whole("effort", steps, 0, MAX_EFFORT)
        if lmbda is not None and (not is_number(lmbda) or not 0 < lmbda < math.inf):
            raise ArgumentError("lmbda", expected="a number above 0, or None", got=lmbda)
        self.given, self.noted = lmbda, noted

    def lmbda(self, quality: float) -> float:
        """Return λ at a quality, interpolated geometrically between the model's qualities.

        Raises:
            ArgumentError: If there is no λ.
        """
        if self.given is not None:
            return float(self.given)
        if not self.noted:
            raise ArgumentError(
                "lmbda",
                expected="set, because this model's file records no λ",
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
        """Return λ for a feature width: the given λ, or a share of the training λ."""
        return self.lmbda(quality) * (NARROW_SHARE if self.given is None else 1.0)


@dataclass(frozen=True)
class TrainingNote:
    """Training settings of a task, as recorded in a model file.

    Attributes:
        lmbdas: λ of each of the model's qualities; empty if not recorded.
        guides: Layers of the task's network at which features were compared; see
            `vcm.tasks.distance.FeatureDistance`.
    """

    lmbdas: tuple[float, ...] = ()
    guides: tuple[str, ...] = ()

    @classmethod
    def of(cls, network: MultiTaskNetwork, task: str) -> TrainingNote:
        """Read the settings from a network's notes.

        Raises:
            WeightsError: If they are damaged.
        """
        from vcm.nn.serialization import read_json

        try:
            note = read_json(network.notes.get("training", "{}"), "training")
            lmbda, scales = note.get("lmbda", {}).get(task), note.get("quality_scales", [1.0])
            guides = note.get("guides", {}).get(task, [])
            lmbdas = () if lmbda is None else tuple(float(lmbda) * float(scale) for scale in scales)
            if not all(0 < value < math.inf for value in lmbdas):
                raise ValueError(f"λ are {lmbdas}")
            return cls(lmbdas, (guides,) if isinstance(guides, str) else tuple(map(str, guides)))
        except (ArgumentError, AttributeError, TypeError, ValueError) as error:
            raise WeightsError(f"the training settings in the model file are damaged: {error}") from error


def image_search(
    streams: StreamCoder,
    x: Tensor,
    effort: Effort,
    *,
    metric: Metric,
    on_step: OnStep | None,
) -> Search | None:
    """Build the search for the reconstruction task.

    Args:
        streams: Streams of the model's task "reconstruction".
        x: Image (1, 3, H, W) in [0, 1].
        effort: Settings of the search.
        metric: "mse" or "ms_ssim"; tiles with a side below 161 pixels always use "mse".
        on_step: Progress callback; receives the steps done and the total.

    Returns:
        The search; None with effort 0.
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
        share = target.shape[-2] * target.shape[-1] / (height * width)  # the tile's weight in the mean
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
    """Build the search for a task's features.

    Args:
        streams: Streams of a task with features.
        x: Task input (1, 3, H, W) in [0, 1].
        effort: Settings of the search.
        num_pixels: Number of pixels of the original image.
        objective: Task distance.
        on_step: Progress callback; receives the steps done and the total.

    Returns:
        The search; None with effort 0.

    Raises:
        ArgumentError: If there is no objective.
    """
    if not effort.steps:
        return None
    expected = "a task distance if effort is set, such as from vcm.tasks.distance.feature_objective"
    if not callable(objective):
        raise ArgumentError("objective", expected=expected, got=objective)
    distance = objective(x.float())
    if not callable(distance):
        raise ArgumentError("objective", expected=expected, got=f"a function that returns {distance!r}")
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
