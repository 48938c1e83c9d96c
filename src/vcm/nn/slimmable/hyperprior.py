"""Slimmable network with a scale hyperprior: S-BHM, and Ba-BHM with one width."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.entropy_models.entropy_models import EntropyModel
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.nn.integer import IntegerHyperSynthesis
from vcm.nn.layers import ResidualBlocks, in_float32
from vcm.nn.slimmable.factorized import channel_rows, medians
from vcm.nn.slimmable.layers import DenseEncoder, SlimmableConvTranspose2d, identity_convolution
from vcm.nn.slimmable.network import SMALLEST_LIKELIHOOD, MultiTaskNetwork
from vcm.nn.slimmable.transforms import (
    LATENT_STRIDE,
    Analysis,
    HyperAnalysis,
    HyperSynthesis,
)
from vcm.nn.slimmable.types import CodecOutput, FeatureMap, Symbols
from vcm.types import Settings
from vcm.validation import is_whole

Y, Z = "y", "z"
MAX_BLOCKS = 16
_Z_STRIDE = 4 * LATENT_STRIDE
_LOWEST, _HIGHEST, _NUM_SCALES = 0.11, 256.0, 64
SCALE_TABLE = [
    _LOWEST * math.exp(step / (_NUM_SCALES - 1) * math.log(_HIGHEST / _LOWEST)) for step in range(_NUM_SCALES)
]
"""Standard deviations that have a table of their own: CompressAI's, from 0.11 to 256."""


@cache
def _gaussian_tables() -> dict[str, Tensor]:
    """Compute the buffers of the Gaussian tables, which do not depend on weights."""
    model = GaussianConditional(SCALE_TABLE)
    model.update()
    return {name: getattr(model, name) for name in ("_quantized_cdf", "_offset", "_cdf_length")}


class SlimmableHyperprior(MultiTaskNetwork):
    """S-BHM (Cao et al., IEEE Access 2023): slimmable encoder with a slimmable scale hyperprior.

    ```
    x ─► g_a ─► y ─┬─► h_a ─► z ─► Q ─► ẑ ─► h_s ─► σ, μ
                   │               │                │
                   │               └ bottleneck i   └ Gaussian conditional
                   └─► Q ─► ŷ ─► decoder of task i
    ```

    With one width it is the fixed-width baseline Ba-BHM, CompressAI's bmshj2018-hyperprior without the first
    bias and with LeakyReLU. The published network predicts scales σ only; with `means` it also predicts the
    means μ of the latent (Minnen et al., Joint Autoregressive and Hierarchical Priors, NeurIPS 2018). If a
    side of the latent is not a multiple of 4, the output of h_s is cropped to it.

    Streams are coded with `vcm.nn.integer.IntegerHyperSynthesis` in h_s's place.

    All arguments except the last two are those of `MultiTaskNetwork`.

    Args:
        means: Whether h_s predicts means.
        blocks: Number of residual blocks at the end of the encoder by task. They run at stride 16, where
            they cost little, and have a larger receptive field than g_a; decoders do not change. The
            published network has none.

    Raises:
        ArgumentError: See `MultiTaskNetwork`; or if an argument is out of range.
    """

    stride = LATENT_STRIDE

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        features: Mapping[str, FeatureMap] | None = None,
        channels: int | None = None,
        latents: Mapping[str, int] | None = None,
        qualities: int = 1,
        means: bool = False,
        blocks: Mapping[str, int] | None = None,
    ) -> None:
        if not isinstance(means, bool):
            raise ArgumentError("means", expected="true or false", got=means)
        self._means = means
        self.blocks = _check_blocks(blocks or {}, tuple(widths))
        super().__init__(widths, features=features, channels=channels, latents=latents, qualities=qualities)

    def _build(self) -> None:
        self.g_a = Analysis(self.widths, self.latents)
        if self.blocks:
            self.refinements = nn.ModuleDict(
                {
                    task: ResidualBlocks(self.latents[self.index(task)], count)
                    for task, count in self.blocks.items()
                }
            )
        self.h_a = HyperAnalysis(self.latents, self.widths)
        self.h_s = HyperSynthesis(self.widths, self.latents, means=self._means)
        self.entropy_bottlenecks = nn.ModuleList(EntropyBottleneck(width) for width in self.widths)
        self.gaussian_conditional = GaussianConditional(SCALE_TABLE)
        self.integer_h_s = nn.ModuleList(
            IntegerHyperSynthesis(width, latent, len(SCALE_TABLE), means=self._means)
            for width, latent in zip(self.widths, self.latents, strict=True)
        )

    def forward(self, x: Tensor, task: str, quality: float | None = None) -> CodecOutput:
        """See `MultiTaskNetwork.forward`."""
        index = self.index(task)
        y = self.g_a(x, index)
        if task in self.blocks:
            y = self.refinements[task](y)
        y = self.gained(y, task, quality)
        height, width = y.shape[-2:]
        # Where the input is a single pixel, as h_a's can be, oneDNN's bfloat16 leaves the weight gradient of
        # taps that meet no pixel uninitialized.
        with torch.autocast(y.device.type, enabled=False):
            z = self.h_a(y.float(), index)
        z_hat, z_likelihoods = in_float32(self.entropy_bottlenecks[index], z)
        predicted = [part[..., :height, :width] for part in self.h_s(z_hat, index) if part is not None]
        y_hat, y_likelihoods = in_float32(self.gaussian_conditional, y, *predicted)
        decoded = self.decode(self.ungained(y_hat, task, quality), task)
        return CodecOutput(decoded, {Y: y_likelihoods, Z: z_likelihoods})

    def sections(self, task: str) -> tuple[str, ...]:
        """Return the sections of z and y."""
        self.index(task)
        return Z, Y

    def quantize(self, latents: tuple[Tensor, ...], task: str) -> Symbols:
        """See `MultiTaskNetwork.quantize`."""
        y, z = (latent.float() for latent in latents)
        symbols = Symbols({Z: torch.round(z - medians(self.entropy_bottlenecks[self.index(task)]))[0]})
        means = self._mean(task, symbols, y)
        symbols[Y] = torch.round(y if means is None else y - means)[0]
        return symbols

    def indexes(
        self,
        task: str,
        section: str,
        decoded: Mapping[str, Tensor],
        size: tuple[int, int],
        watch: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return the channel for z, and the output of the integer hyper-decoder for y."""
        if section == Z:
            return channel_rows(self.widths[self.index(task)], size, _Z_STRIDE)
        places = (size[0] // LATENT_STRIDE, size[1] // LATENT_STRIDE)
        return self._prior(task, decoded, places, watch)[0]

    def table(self, task: str, section: str) -> EntropyModel:
        """Return the entropy bottleneck for z and the Gaussian tables for y."""
        return self.entropy_bottlenecks[self.index(task)] if section == Z else self.gaussian_conditional

    def dequantize(self, symbols: Mapping[str, Tensor], task: str) -> Tensor:
        """See `MultiTaskNetwork.dequantize`."""
        y = symbols[Y][None]
        means = self._mean(task, symbols, y)
        return y if means is None else y + means

    def symbol_bits(self, latent: Tensor, symbols: Mapping[str, Tensor], task: str) -> Tensor:
        """See `MultiTaskNetwork.symbol_bits`; uses the tables' standard deviations."""
        rows, _ = self._prior(task, symbols, (latent.shape[-2], latent.shape[-1]))
        deviations = torch.tensor(SCALE_TABLE, device=latent.device)[rows.long()]
        size = latent.float().abs()
        upper, lower = (torch.special.ndtr((half - size) / deviations) for half in (0.5, -0.5))
        bits: Tensor = -(upper - lower).clamp(min=SMALLEST_LIKELIHOOD).log2().sum()
        return bits

    def _mean(self, task: str, symbols: Mapping[str, Tensor], y: Tensor) -> Tensor | None:
        """Return the mean of y, (C, h, w); None if means are not predicted."""
        if not self._means:
            return None
        return self._prior(task, symbols, (y.shape[-2], y.shape[-1]))[1]

    def _prior(
        self,
        task: str,
        symbols: Mapping[str, Tensor],
        places: tuple[int, int],
        watch: Callable[[Tensor], None] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Return table rows and means of y, (C, h, w) each, from z's symbols; cached."""
        if isinstance(symbols, Symbols) and symbols.prior is not None:
            return symbols.prior
        indexes, means = self.integer_h_s[self.index(task)](symbols[Z], watch)
        height, width = places
        prior = (indexes[:, :height, :width], None if means is None else means[:, :height, :width])
        if isinstance(symbols, Symbols):
            symbols.prior = prior
        return prior

    def architecture(self) -> Settings:
        """See `MultiTaskNetwork.architecture`."""
        built = {**super().architecture(), "means": self._means}
        return {**built, "blocks": dict(self.blocks)} if self.blocks else built

    def encoder(self, task: str) -> DenseEncoder:
        """See `MultiTaskNetwork.encoder`."""
        index = self.index(task)
        g_a = self.g_a.dense(index)
        if task in self.blocks:
            g_a.extend([copy.deepcopy(self.refinements[task]), identity_convolution(self.latents[index])])
        return DenseEncoder(g_a, self.h_a.dense(index))

    def bottlenecks(self, task: str) -> list[EntropyBottleneck]:
        """Return the bottleneck of z."""
        return [self.entropy_bottlenecks[self.index(task)]]

    def update_tables(self) -> None:
        """Update the tables of the bottlenecks, the Gaussian tables and the integer h_s."""
        super().update_tables()
        for name, table in _gaussian_tables().items():
            setattr(self.gaussian_conditional, name, table.to(self.fingerprints.device, copy=True))
        for index, exact in enumerate(self.integer_h_s):
            assert isinstance(exact, IntegerHyperSynthesis)
            layers = [d.sliced(index) for d in self.h_s.deconvs if isinstance(d, SlimmableConvTranspose2d)]
            exact.copy_from(
                layers, medians(self.entropy_bottlenecks[index]).flatten(), torch.tensor(SCALE_TABLE)
            )

    def check_tables(self) -> None:
        """Also check the integer hyper-decoders."""
        super().check_tables()
        for exact in self.integer_h_s:
            assert isinstance(exact, IntegerHyperSynthesis)
            exact.check()

    def table_state(self, task: str) -> Iterable[Tensor]:
        """Yield the tables and the integer hyper-decoder."""
        yield from super().table_state(task)
        yield from self.integer_h_s[self.index(task)].state_dict().values()


def _check_blocks(blocks: Mapping[str, int], tasks: tuple[str, ...]) -> dict[str, int]:
    """Check block counts; return those above 0 by task."""
    if not isinstance(blocks, Mapping) or not set(blocks) <= set(tasks):
        raise ArgumentError("blocks", expected=f"a mapping from any of {', '.join(tasks)}", got=blocks)
    for task, count in blocks.items():
        if not is_whole(count) or not 0 <= count <= MAX_BLOCKS:
            raise ArgumentError(
                f"blocks.{task}", expected=f"a whole number from 0 to {MAX_BLOCKS}", got=count
            )
    return {task: int(blocks[task]) for task in tasks if blocks.get(task)}
