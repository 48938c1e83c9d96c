"""Networks with a factorized prior: slimmable (S-BFM, Ba-BFM) and latent-scalable (LSS-BFM)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor, nn

from vcm.nn.gains import LatentGains
from vcm.nn.layers import in_float32
from vcm.nn.slimmable.layers import DenseEncoder
from vcm.nn.slimmable.network import SMALLEST_LIKELIHOOD, MultiTaskNetwork
from vcm.nn.slimmable.transforms import LATENT_STRIDE, Analysis
from vcm.nn.slimmable.types import CodecOutput, Symbols

Y = "y"


class SlimmableFactorized(MultiTaskNetwork):
    """S-BFM (Cao et al., IEEE Access 2023): slimmable encoder with a factorized prior per width.

    ```
    x ─► g_a at width i ─► y ─► Q ─► ŷ ─► decoder of task i
                                │
                                └─ entropy bottleneck i
    ```

    With one width it is the fixed-width baseline Ba-BFM, CompressAI's bmshj2018-factorized without the first
    bias. Arguments are those of `MultiTaskNetwork`.
    """

    stride = LATENT_STRIDE

    def _build(self) -> None:
        self.g_a = Analysis(self.widths, self.latents)
        self.entropy_bottlenecks = nn.ModuleList(EntropyBottleneck(latent) for latent in self.latents)

    def forward(self, x: Tensor, task: str, quality: float | None = None) -> CodecOutput:
        """See `MultiTaskNetwork.forward`."""
        y = self.gained(self.g_a(x, self.index(task)), task, quality)
        y_hat, likelihoods = in_float32(self._bottleneck(task), y)
        return CodecOutput(self.decode(self.ungained(y_hat, task, quality), task), {Y: likelihoods})

    def sections(self, task: str) -> tuple[str, ...]:
        """Return the only section, the latent."""
        self.index(task)
        return (Y,)

    def quantize(self, latents: tuple[Tensor, ...], task: str) -> Symbols:
        """See `MultiTaskNetwork.quantize`."""
        return Symbols({Y: torch.round(latents[0].float() - medians(self._bottleneck(task)))[0]})

    def indexes(
        self,
        task: str,
        section: str,
        decoded: Mapping[str, Tensor],
        size: tuple[int, int],
        watch: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return one row per channel."""
        return channel_rows(self.latents[self.index(task)], size, self.stride)

    def table(self, task: str, section: str) -> EntropyBottleneck:
        """Return the entropy bottleneck of the width."""
        return self._bottleneck(task)

    def dequantize(self, symbols: Mapping[str, Tensor], task: str) -> Tensor:
        """See `MultiTaskNetwork.dequantize`."""
        return symbols[Y][None] + medians(self._bottleneck(task))

    def symbol_bits(self, latent: Tensor, symbols: Mapping[str, Tensor], task: str) -> Tensor:
        """See `MultiTaskNetwork.symbol_bits`."""
        return _bits(self._bottleneck(task), latent)

    def encoder(self, task: str) -> DenseEncoder:
        """See `MultiTaskNetwork.encoder`."""
        return DenseEncoder(self.g_a.dense(self.index(task)), None)

    def decoding_state(self, task: str) -> Iterable[Tensor]:
        """Yield the tensors of `MultiTaskNetwork.decoding_state` and the medians."""
        yield from super().decoding_state(task)
        yield medians(self._bottleneck(task))

    def bottlenecks(self, task: str) -> list[EntropyBottleneck]:
        """Return the bottleneck of the width."""
        return [self._bottleneck(task)]

    def _bottleneck(self, task: str) -> EntropyBottleneck:
        return self.entropy_bottlenecks[self.index(task)]


class LatentScalable(MultiTaskNetwork):
    """LSS-BFM, latent-space scalability (Choi and Bajić, IEEE TIP 31, 2022) with a factorized prior.

    ```
    x ─► g_a at full width ─► y = (base | enhancement | …) ─► Q ─► ŷ
                                   └─ first task's ─┘
                                   └─── next task's ────┘     ŷ[:l] ─► decoder of the task with l latents
    ```

    The encoder has one width. A narrow task is sent the first channels of the latent, a wider task also the
    channels after them. Arguments are those of `MultiTaskNetwork`.
    """

    stride = LATENT_STRIDE

    def _build(self) -> None:
        self.g_a = Analysis(self.widths[-1:], self.latents[-1:])
        # One bottleneck for the channels that each task adds.
        self.layers = tuple(pairwise((0, *self.latents)))
        self.entropy_bottlenecks = nn.ModuleList(
            EntropyBottleneck(stop - start) for start, stop in self.layers
        )

    def forward(self, x: Tensor, task: str, quality: float | None = None) -> CodecOutput:
        """See `MultiTaskNetwork.forward`."""
        y = self.gained(self.g_a(x, 0)[:, : self.latents[self.index(task)]], task, quality)
        coded = [
            in_float32(bottleneck, y[:, start:stop])
            for (start, stop), bottleneck in self._layers(task).values()
        ]
        y_hat = torch.cat([values for values, _ in coded], dim=1)
        likelihoods = {name: values for name, (_, values) in zip(self.sections(task), coded, strict=True)}
        return CodecOutput(self.decode(self.ungained(y_hat, task, quality), task), likelihoods)

    def sections(self, task: str) -> tuple[str, ...]:
        """Return one section for each task up to this one: y0, y1, …"""
        return tuple(f"{Y}{number}" for number in range(self.index(task) + 1))

    def quantize(self, latents: tuple[Tensor, ...], task: str) -> Symbols:
        """See `MultiTaskNetwork.quantize`."""
        y = latents[0].float()
        return Symbols(
            {
                name: torch.round(y[:, start:stop] - medians(bottleneck))[0]
                for name, ((start, stop), bottleneck) in self._layers(task).items()
            }
        )

    def indexes(
        self,
        task: str,
        section: str,
        decoded: Mapping[str, Tensor],
        size: tuple[int, int],
        watch: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return one row per channel."""
        start, stop = self._layers(task)[section][0]
        return channel_rows(stop - start, size, self.stride)

    def table(self, task: str, section: str) -> EntropyBottleneck:
        """Return the entropy bottleneck of the section's channels."""
        return self._layers(task)[section][1]

    def dequantize(self, symbols: Mapping[str, Tensor], task: str) -> Tensor:
        """See `MultiTaskNetwork.dequantize`."""
        parts = [symbols[name][None] + medians(b) for name, (_, b) in self._layers(task).items()]
        return torch.cat(parts, dim=1)

    def latent_sections(self, task: str) -> dict[str, slice]:
        """Return one section for each task up to this one."""
        return {name: slice(start, stop) for name, ((start, stop), _) in self._layers(task).items()}

    def symbol_bits(self, latent: Tensor, symbols: Mapping[str, Tensor], task: str) -> Tensor:
        """See `MultiTaskNetwork.symbol_bits`."""
        layers = self._layers(task).values()
        return torch.stack(
            [_bits(bottleneck, latent[start:stop]) for (start, stop), bottleneck in layers]
        ).sum()

    def encoder(self, task: str) -> DenseEncoder:
        """Return the full-width encoder without the latent channels of wider tasks."""
        encoder = DenseEncoder(self.g_a.dense(0), None)
        encoder.g_a[-1] = _first_channels(encoder.g_a[-1], self.latents[self.index(task)])
        return encoder

    def gains_of(self, task: str) -> LatentGains:
        """Return the gains that all tasks share."""
        self.index(task)
        gains = self.latent_gains[0]
        assert isinstance(gains, LatentGains)
        return gains

    def _gained_latents(self) -> tuple[int, ...]:
        return self.latents[-1:]

    def decoding_state(self, task: str) -> Iterable[Tensor]:
        """Yield the tensors of `MultiTaskNetwork.decoding_state` and the medians."""
        yield from super().decoding_state(task)
        yield from (medians(bottleneck) for _, bottleneck in self._layers(task).values())

    def bottlenecks(self, task: str) -> list[EntropyBottleneck]:
        """Return the bottleneck of the channels that the task adds."""
        return [self.entropy_bottlenecks[self.index(task)]]

    def _layers(self, task: str) -> dict[str, tuple[tuple[int, int], EntropyBottleneck]]:
        pairs = zip(self.layers, self.entropy_bottlenecks, strict=True)
        return dict(zip(self.sections(task), pairs, strict=False))


def _first_channels(conv: nn.Module, count: int) -> nn.Conv2d:
    """Build a convolution with the first output channels of another."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    few = copy.deepcopy(conv)
    assert few.bias is not None
    few.out_channels, few.weight.data, few.bias.data = count, conv.weight.data[:count], conv.bias.data[:count]
    return few


def _bits(bottleneck: EntropyBottleneck, latent: Tensor) -> Tensor:
    """Estimate the bits of (C, h, w) symbols with median 0; differentiable with respect to the symbols."""
    values = latent.float().flatten(1)[:, None] + medians(bottleneck)[0]
    ends = [bottleneck._logits_cumulative(values + half, stop_gradient=True) for half in (-0.5, 0.5)]
    sign = -torch.sign(ends[0] + ends[1]).detach()  # differences of sigmoids are exact on their lower side
    likelihood = (torch.sigmoid(sign * ends[1]) - torch.sigmoid(sign * ends[0])).abs()
    return -likelihood.clamp(min=SMALLEST_LIKELIHOOD).log2().sum()


def medians(bottleneck: EntropyBottleneck) -> Tensor:
    """Return the medians of a bottleneck, (1, C, 1, 1) float32."""
    values: Tensor = bottleneck.quantiles[:, 0, 1].detach().float()
    return values[None, :, None, None]


def channel_rows(channels: int, size: tuple[int, int], stride: int) -> Tensor:
    """Return table row c for channel c: (channels, ⌈H/stride⌉, ⌈W/stride⌉) int32, on the CPU."""
    rows = torch.arange(channels, dtype=torch.int32)[:, None, None]
    return rows.expand(channels, -(-size[0] // stride), -(-size[1] // stride))
