"""Data classes of slimmable networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vcm.deprecation import former_attribute
from vcm.errors import ArgumentError

RECONSTRUCTION = "reconstruction"
"""The task whose decoder gives an image for people."""


@dataclass(frozen=True)
class FeatureMap:
    """Feature map at a task network's cut.

    Attributes:
        channels: Number of channels.
        stride: Stride in pixels of the network's input.
        synthesis: Whether to decode it with `FeatureSynthesis`, for an early cut, instead of the published
            `FeatureTransform`.
        hidden: Channels between the decoder's convolutions; None for the network's `channels`.
    """

    channels: int
    stride: int
    synthesis: bool = False
    hidden: int | None = None


@dataclass(frozen=True, eq=False)
class CodecOutput:
    """Output of a learned codec's forward pass; `output["x_hat"]` works as with CompressAI's dicts.

    Attributes:
        x_hat: (N, 3, H, W), about [0, 1], for reconstruction; the task's feature map f̂ otherwise.
        likelihoods: Likelihood of every symbol, in (0, 1], by latent: "y", and "z" with a hyperprior.
    """

    x_hat: Tensor
    likelihoods: dict[str, Tensor]

    decoded = former_attribute("decoded", "x_hat")

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401  a tensor, or tensors by name
        if name not in ("x_hat", "likelihoods"):
            raise KeyError(name)
        return getattr(self, name)


class Symbols(dict[str, Tensor]):
    """Integer symbols of one image by section, (C, h, w) each.

    Attributes:
        prior: Table rows and means (or None) of the last section, (C, h, w) each, predicted from the sections
            before it. A hyperprior computes them once and stores them here.
    """

    prior: tuple[Tensor, Tensor | None] | None = None

    def replaced(self, section: str, symbols: Tensor) -> Symbols:
        """Return a copy with other symbols of one section."""
        other = Symbols(self)
        other[section], other.prior = symbols, self.prior
        return other


def check_tasks(tasks: tuple[str, ...], features: Mapping[str, FeatureMap]) -> None:
    """Raise ArgumentError unless every task but "reconstruction", and no other name, has a feature map."""
    if wrong := [task for task in tasks if not isinstance(task, str) or not task.isidentifier()]:
        raise ArgumentError("widths", expected="task names of letters, digits and _", got=wrong[0])
    if missing := [task for task in features if task not in tasks]:
        raise ArgumentError(
            "widths",
            expected=f"a width for every task; {missing[0]} has a feature map but no width",
            got=", ".join(tasks),
        )
    if RECONSTRUCTION in features:
        raise ArgumentError(
            "features", expected=f"no {RECONSTRUCTION}, which gives an image", got=RECONSTRUCTION
        )
    if missing := [task for task in tasks if task != RECONSTRUCTION and task not in features]:
        raise ArgumentError(
            "features",
            expected=f"the feature map of every task but {RECONSTRUCTION}; {missing[0]} has none",
            got=", ".join(features) or "none",
            remedy="Give each FeatureMap(channels=…, stride=…) of the task network's cut.",
        )
