"""Trained preprocessors before standard codecs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vcm.deprecation import former_arguments, former_attribute
from vcm.errors import ArgumentError, WeightsError
from vcm.files import parse_json
from vcm.nn.preprocessor import NPP, QuantizationAdaptiveNPP, deployed, load_preprocessor
from vcm.nn.serialization import read_notes
from vcm.nn.tiling import in_tiles
from vcm.nn.weights import state_sha256
from vcm.types import Settings
from vcm.validation import is_number

WHOLE_PIXELS = 1 << 21
"""Images up to this many pixels (1920×1080, say) are filtered in one piece, larger ones in tiles."""
TILE = 1024
HALO = 64
"""Side of a tile, and what is worked out around it, in pixels: none of x̄ depends on one further than 62."""


@dataclass(frozen=True)
class TrainedPairs:
    """Pairs of λ and quality that a preprocessor was trained with.

    Attributes:
        codec: Name of the codec; empty if unknown.
        lmbdas: λ by quality, in rising order of quality; the geometric mean where a quality had several.
    """

    codec: str = ""
    lmbdas: Mapping[float, float] = field(default_factory=dict)

    @classmethod
    def of(cls, codec: str, pairs: Sequence[Sequence[float]]) -> TrainedPairs:
        """Build from (λ, quality) pairs.

        Raises:
            ValueError: If an entry is not such a pair.
        """
        logarithms: dict[float, list[float]] = {}
        for lmbda, quality in pairs:
            if not (is_number(lmbda) and is_number(quality) and 0 < lmbda < math.inf):
                raise ValueError(f"({lmbda!r}, {quality!r}) is not a pair of a λ and a quality")
            logarithms.setdefault(float(quality), []).append(math.log(lmbda))
        return cls(codec, {q: math.exp(sum(logarithms[q]) / len(logarithms[q])) for q in sorted(logarithms)})

    @classmethod
    def read(cls, path: str | Path) -> TrainedPairs:
        """Read the pairs of a model file; empty if it has none.

        Raises:
            WeightsError: If the file is not a model, or the pairs are damaged.
        """
        note = read_notes(path).get("pairs")
        if not note:
            return cls()
        try:
            content = parse_json(note)
            return cls.of(str(content["codec"]), content["pairs"]) if content else cls()
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise WeightsError(f"{path}: its note of pairs is damaged: {error!r}.") from error

    def lmbda_at(self, quality: float) -> float:
        """Return λ for a quality: log-linear interpolation, and the nearest trained λ outside their range."""
        return math.exp(
            np.interp(quality, list(self.lmbdas), [math.log(lmbda) for lmbda in self.lmbdas.values()])
        )

    def __str__(self) -> str:
        if not self.lmbdas:
            return "none"
        pairs = ", ".join(f"{lmbda:.3g} at {quality:g}" for quality, lmbda in self.lmbdas.items())
        return f"these for {self.codec}'s quality: {pairs}"


class NPPPreprocessor:
    """A trained NPP as a `Preprocessor` of (3, H, W) uint8 RGB images; may be called from several threads.

    Large images are filtered in tiles without seams; the full-size network takes about 2 GB at most.

    Args:
        model: Model file of `vcm train`, or a network.
        lmbda: λ of a quantization-adaptive network; None takes the λ of its training at
            `quality` of `codec`, from the model file, interpolated log-linearly.
        codec: Name of the codec that follows.
        quality: Quality of that codec.
        device: Device of the network: "cpu", "cuda", …

    Raises:
        ArgumentError: If λ is out of the trained range, missing in call and model file, or given to a
            network for one λ.
        WeightsError: If the model file cannot be read.
    """

    name = "npp"
    title = "NPP"

    @former_arguments(rate="lmbda")
    def __init__(
        self,
        model: str | Path | NPP,
        *,
        lmbda: float | None = None,
        codec: str | None = None,
        quality: float | None = None,
        device: str = "cpu",
    ) -> None:
        if isinstance(model, NPP):
            self.network, self.pairs = model, TrainedPairs()
        elif isinstance(model, (str, Path)):
            self.network, self.pairs = load_preprocessor(model), TrainedPairs.read(model)
        else:
            raise ArgumentError(
                "model",
                expected="a preprocessor's model.safetensors, as `vcm train` wrote it",
                got=model,
                remedy="For `vcm evaluate`, say npp_model=…",
            )
        self.device = str(device)
        self._sha256 = state_sha256(self.network.state_dict())
        self._set_lmbda(lmbda, codec, quality)

    @former_arguments(rate="lmbda")
    def at(
        self, *, lmbda: float | None = None, codec: str | None = None, quality: float | None = None
    ) -> NPPPreprocessor:
        """Return a preprocessor with the same network and another λ, without loading the file again.

        Args:
            lmbda: See `NPPPreprocessor`.
            codec: See `NPPPreprocessor`.
            quality: See `NPPPreprocessor`.
        """
        other = object.__new__(type(self))
        other.network, other.pairs = self.network, self.pairs
        other.device, other._sha256 = self.device, self._sha256
        other._set_lmbda(lmbda, codec, quality)
        return other

    rate = former_attribute("rate", "lmbda")

    def _set_lmbda(self, lmbda: float | None, codec: str | None, quality: float | None) -> None:
        if isinstance(self.network, QuantizationAdaptiveNPP) and lmbda is None:
            lmbda = self._derived_lmbda(self.network, codec, quality)
        network = deployed(self.network, lmbda).to(self.device)
        self.lmbda = None if lmbda is None else float(lmbda)
        self._filter = network.to(memory_format=torch.channels_last)

    def _derived_lmbda(
        self, network: QuantizationAdaptiveNPP, codec: str | None, quality: float | None
    ) -> float:
        low, high = network.lmbda_range
        if quality is None or not self.pairs.lmbdas or codec != self.pairs.codec:
            raise ArgumentError(
                "lmbda",
                expected=f"a number from {low:g} to {high:g}, the range this preprocessor was trained for",
                got=None,
                remedy="Set codecs.NAME.lmbda=[…] of `vcm evaluate` or --lmbda of `vcm preprocess`; the "
                f"model file notes {self.pairs}.",
            )
        return min(max(self.pairs.lmbda_at(quality), low), high)

    def __call__(self, image: Tensor) -> Tensor:
        """Filter an image; see `Preprocessor`.

        Raises:
            ArgumentError: If it is not a (3, H, W) uint8 tensor.
        """
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or 0 in image.shape:
            raise ArgumentError(
                "image", expected="a (3, H, W) uint8 RGB tensor", got=f"{tuple(image.shape)} {image.dtype}"
            )
        height, width = image.shape[1:]
        stride = self.network.stride
        is_small = math.ceil(height / stride) * math.ceil(width / stride) * stride**2 <= WHOLE_PIXELS
        tile = max(height, width) if is_small else TILE
        return in_tiles(self._filtered, image[None], tile=tile, halo=HALO, scale=1)[0]

    @torch.no_grad()
    def _filtered(self, piece: Tensor) -> Tensor:
        x = piece.to(self.device).float().div(255).contiguous(memory_format=torch.channels_last)
        filtered: Tensor = self._filter(x)
        return filtered.mul(255).round().to(torch.uint8).to(piece.device).contiguous()

    def settings(self) -> Settings:
        """See `Preprocessor`."""
        return {
            "name": self.name,
            "model": self.network.architecture(),
            "weights_sha256": self._sha256,
            "rate": self.lmbda,  # the key in records of 0.1
            "device": self.device,
        }
