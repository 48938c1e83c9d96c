"""Latent search for one image, with an unchanged decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from vcm.nn.annealing import refine
from vcm.nn.slimmable.network import MultiTaskNetwork
from vcm.nn.slimmable.transforms import LATENT_STRIDE
from vcm.nn.slimmable.types import Symbols

TILE = 32
"""Side of what is searched at a time, in places of the latent: 512 pixels."""
_MARGIN = 2
"""Places beyond a tile that its symbols change: g_s looks less than 2 places around itself."""
_CONTEXT = 2 * _MARGIN

Area = tuple[slice, slice]
"""Rows and columns."""
Distortion = Callable[[Tensor, Area], Tensor]
"""Differentiable distortion of a decoded tensor (1, C, h, w) for an area of the padded input in pixels."""


@dataclass(frozen=True)
class LatentSearch:
    """Search for symbols of y with lower bits / pixel + λ · 255² · distortion; see `vcm.nn.annealing.refine`.

    Side information, tables and decoder do not change, so that every decoder reads the result (Yang, Bamler,
    Mandt, Improving Inference for Neural Image Compression, NeurIPS 2020).

    Args:
        network: Network in evaluation mode.
        task: Name of one of its tasks.
        quality: One of its qualities.
        distortion: Distortion of decoded images or features; with `tile`, a mean over pixels that is computed
            for each tile.
        num_pixels: Number of pixels of the original image, by which bits are divided.
        lmbda: λ, above 0.
        steps: Number of gradient steps.
        half: Whether to run the steps under bfloat16 autocast.
        tile: Tile size in positions of the latent, which limits memory; None for a single tile.
    """

    network: MultiTaskNetwork
    task: str
    quality: float
    distortion: Distortion
    num_pixels: int
    lmbda: float
    steps: int
    half: bool = False
    tile: int | None = None

    def run(self, y: Tensor, symbols: Symbols, on_step: Callable[[int, int], None] | None = None) -> Symbols:
        """Run the search; the objective does not increase in any tile.

        Args:
            y: Latent after the gains, (1, C, h, w).
            symbols: Its symbols from `network.quantize`.
            on_step: Progress callback; receives the steps done and the total.

        Returns:
            Symbols of all sections.
        """
        latent = torch.empty_like(y[0], dtype=torch.float32)
        for name, channels in self.network.latent_sections(self.task).items():
            latent[channels] = symbols[name]
        symbols = self._with(symbols, latent)
        with torch.no_grad():
            self.network.symbol_bits(latent, symbols, self.task)  # computes the prior, which it keeps
            offset = self.network.dequantize(self._with(symbols, torch.zeros_like(latent)), self.task)[0]
        start = y[0].float() - offset
        areas = list(_areas((latent.shape[-2], latent.shape[-1]), self.tile))
        for number, area in enumerate(areas):
            before = number * self.steps

            def report(step: int, _: int, before: int = before) -> None:
                if on_step is not None:
                    on_step(before + step, self.steps * len(areas))

            objective = self._objective(latent, offset, symbols, area)
            latent[(..., *area)] = refine(
                start[(..., *area)], objective, self.steps, half=self.half, on_step=report
            )
        return self._with(symbols, latent)

    def _objective(
        self, latent: Tensor, offset: Tensor, symbols: Symbols, area: Area
    ) -> Callable[[Tensor], Tensor]:
        """Build the objective of the symbols of one area, with the rest of the latent fixed."""
        size = (latent.shape[-2], latent.shape[-1])
        around, seen = _grown(area, _CONTEXT, size), _grown(area, _MARGIN, size)
        decoder = self.network.decoders[self.task]
        # Without gradients of weights, whatever the network's parameters ask for: they are a third of a step.
        weights = {name: parameter.detach() for name, parameter in decoder.named_parameters()}
        with torch.no_grad():
            gains = self.network.ungained(torch.ones_like(latent[None, :, :1, :1]), self.task, self.quality)
        context, centre = latent[(..., *around)].clone(), offset[(..., *around)]
        inner, shown = _within(area, around), _within(seen, around)
        prior = Symbols(symbols)
        if symbols.prior is not None:
            rows, means = symbols.prior
            prior.prior = (rows[(..., *area)], means)

        def objective(found: Tensor) -> Tensor:
            piece = context.clone()
            piece[(..., *inner)] = found.to(piece.dtype)
            y_hat = ((piece + centre)[None] * gains).contiguous(memory_format=torch.channels_last)
            decoded: Tensor = functional_call(decoder, weights, (y_hat,))
            scale = decoded.shape[-1] / piece.shape[-1]
            error = self.distortion(decoded[(..., *_scaled(shown, scale))], _scaled(seen, LATENT_STRIDE))
            bits = self.network.symbol_bits(found, prior, self.task)
            return bits / self.num_pixels + self.lmbda * 255**2 * error

        return objective

    def _with(self, symbols: Symbols, latent: Tensor) -> Symbols:
        for name, channels in self.network.latent_sections(self.task).items():
            symbols = symbols.replaced(name, latent[channels])
        return symbols


def _areas(size: tuple[int, int], tile: int | None) -> Iterator[Area]:
    height, width = size
    step = max(height, width) if tile is None else tile
    for top in range(0, height, step):
        for left in range(0, width, step):
            yield slice(top, min(top + step, height)), slice(left, min(left + step, width))


def _grown(area: Area, margin: int, size: tuple[int, int]) -> Area:
    rows, columns = (
        slice(max(part.start - margin, 0), min(part.stop + margin, side))
        for part, side in zip(area, size, strict=True)
    )
    return rows, columns


def _within(area: Area, around: Area) -> Area:
    rows, columns = (
        slice(part.start - outer.start, part.stop - outer.start)
        for part, outer in zip(area, around, strict=True)
    )
    return rows, columns


def _scaled(area: Area, scale: float) -> Area:
    rows, columns = (slice(round(part.start * scale), round(part.stop * scale)) for part in area)
    return rows, columns
