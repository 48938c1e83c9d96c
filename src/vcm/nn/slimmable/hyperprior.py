"""A slimmable network with a scale hyperprior: S-BHM, and Ba-BHM with one width."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.entropy_models.entropy_models import EntropyModel
from torch import Tensor, nn

from vcm.nn.integer import IntegerHyperSynthesis
from vcm.nn.layers import in_float32
from vcm.nn.slimmable.factorized import channel_rows, medians
from vcm.nn.slimmable.layers import SlimmableConvTranspose2d
from vcm.nn.slimmable.network import MultiTaskNetwork
from vcm.nn.slimmable.records import CodecOutput
from vcm.nn.slimmable.transforms import (
    LATENT_STRIDE,
    Analysis,
    DenseEncoder,
    HyperAnalysis,
    HyperSynthesis,
)

Y, Z = "y", "z"
_LOWEST, _HIGHEST, _NUM_SCALES = 0.11, 256.0, 64
SCALE_TABLE = [
    _LOWEST * math.exp(step / (_NUM_SCALES - 1) * math.log(_HIGHEST / _LOWEST)) for step in range(_NUM_SCALES)
]
"""Standard deviations that have a table of their own: CompressAI's, from 0.11 to 256."""


@cache
def _gaussian_tables() -> dict[str, Tensor]:
    """The Gaussian tables' buffers, which do not depend on weights."""
    model = GaussianConditional(SCALE_TABLE)
    model.update()
    return {name: getattr(model, name) for name in ("_quantized_cdf", "_offset", "_cdf_length")}


class SlimmableHyperprior(MultiTaskNetwork):
    """S-BHM (Cao et al., IEEE Access 2023): a slimmable encoder with a slimmable scale hyperprior.

    ```
    x ─► g_a ─► y ─┬─► h_a ─► z ─► Q ─► ẑ ─► h_s ─► σ
                   │               │                │
                   │               └ bottleneck i   └ Gaussian conditional
                   └─► Q ─► ŷ ─► decoder of task i
    ```

    With one width it is the fixed-width baseline Ba-BHM, CompressAI's bmshj2018-hyperprior without the first
    bias and with LeakyReLU. Streams are coded with `vcm.nn.integer.IntegerHyperSynthesis` in h_s's place.
    Arguments are those of `MultiTaskNetwork`.
    """

    stride = LATENT_STRIDE * 4

    def _build(self) -> None:
        self.g_a = Analysis(self.widths)
        self.h_a = HyperAnalysis(self.widths)
        self.h_s = HyperSynthesis(self.widths)
        self.entropy_bottlenecks = nn.ModuleList(EntropyBottleneck(width) for width in self.widths)
        self.gaussian_conditional = GaussianConditional(SCALE_TABLE)
        self.integer_h_s = nn.ModuleList(
            IntegerHyperSynthesis(width, len(SCALE_TABLE)) for width in self.widths
        )

    def forward(self, x: Tensor, task: str) -> CodecOutput:
        """See `MultiTaskNetwork.forward`."""
        index = self.index(task)
        y = self.g_a(x, index)
        z_hat, z_likelihoods = in_float32(self.entropy_bottlenecks[index], self.h_a(y, index))
        scales = self.h_s(z_hat, index)
        y_hat, y_likelihoods = in_float32(self.gaussian_conditional, y, scales)
        return CodecOutput(self.decode(y_hat, task), {Y: y_likelihoods, Z: z_likelihoods})

    def sections(self, task: str) -> tuple[str, ...]:
        """Side information, then the latent."""
        self.index(task)
        return Z, Y

    def quantize(self, latents: tuple[Tensor, ...], task: str) -> dict[str, Tensor]:
        """See `MultiTaskNetwork.quantize`."""
        y, z = latents
        bottleneck = self.entropy_bottlenecks[self.index(task)]
        return {Z: torch.round(z.float() - medians(bottleneck))[0], Y: torch.round(y.float())[0]}

    def indexes(
        self, task: str, section: str, decoded: Mapping[str, Tensor], size: tuple[int, int]
    ) -> Tensor:
        """For z its channel; for y what the exact hyper-decoder makes of z."""
        index = self.index(task)
        if section == Z:
            return channel_rows(self.widths[index], size, self.stride)
        rows: Tensor = self.integer_h_s[index](decoded[Z])
        return rows

    def table(self, task: str, section: str) -> EntropyModel:
        """The width's entropy bottleneck for z, the Gaussian tables for y."""
        return self.entropy_bottlenecks[self.index(task)] if section == Z else self.gaussian_conditional

    def dequantize(self, symbols: Mapping[str, Tensor], task: str) -> Tensor:
        """See `MultiTaskNetwork.dequantize`."""
        return symbols[Y][None]

    def encoder(self, task: str) -> DenseEncoder:
        """See `MultiTaskNetwork.encoder`."""
        index = self.index(task)
        return DenseEncoder(self.g_a.dense(index), self.h_a.dense(index))

    def bottlenecks(self, task: str) -> list[EntropyBottleneck]:
        """The width's own, for z."""
        return [self.entropy_bottlenecks[self.index(task)]]

    def update_tables(self) -> None:
        """The bottlenecks' tables, the Gaussian ones, and h_s in integers."""
        super().update_tables()
        for name, table in _gaussian_tables().items():
            setattr(self.gaussian_conditional, name, table.to(self.fingerprints.device, copy=True))
        for index, exact in enumerate(self.integer_h_s):
            assert isinstance(exact, IntegerHyperSynthesis)
            layers = [d.sliced(index) for d in self.h_s.deconvs if isinstance(d, SlimmableConvTranspose2d)]
            exact.copy_from(
                layers, medians(self.entropy_bottlenecks[index]).flatten(), torch.tensor(SCALE_TABLE)
            )

    def table_state(self, task: str) -> Iterable[Tensor]:
        """The tables, and the integer hyper-decoder that chooses among them."""
        yield from super().table_state(task)
        yield from self.integer_h_s[self.index(task)].state_dict().values()
