"""Base class of slimmable multi-task codecs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.entropy_models.entropy_models import EntropyModel
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.nn.coder import (
    Budget,
    CodingTable,
    check_latent,
    decode_symbols,
    encode_symbols,
)
from vcm.nn.entropy import check_tables, update_bottleneck
from vcm.nn.gains import LatentGains, check_quality
from vcm.nn.haar import start_as_haar
from vcm.nn.slimmable.layers import DenseEncoder, check_widths
from vcm.nn.slimmable.tables import TabledNetwork
from vcm.nn.slimmable.transforms import (
    Analysis,
    FeatureSynthesis,
    Synthesis,
    feature_decoder,
)
from vcm.nn.slimmable.types import RECONSTRUCTION, CodecOutput, FeatureMap, Symbols, check_tasks
from vcm.types import Settings
from vcm.validation import is_whole

MAX_QUALITIES = 64
MAX_TASKS = 64
SMALLEST_LIKELIHOOD = 1e-9
"""Same value as in CompressAI's entropy models."""
_STAGE_GAIN = 1.0
"""Initial gain of the encoder's stages: symbols are steps of 0.2 of an orthonormal transform of [0, 1]."""


class MultiTaskNetwork(TabledNetwork):
    """Learned codec with one slimmable encoder for several tasks and a decoder for each.

    ```
    x ─► encoder at the task's width ─► y ─► ·m ─► Q ─► ·m' ─► ŷ ─┬─► g_s ─► x̂   ("reconstruction")
                                                                   └─► feature transform ─► f̂
    ```

    A network with several qualities has gains m and m' for each (`vcm.nn.gains.LatentGains`), so that one
    model serves many rates. A network with one quality has no gains, as in the paper.

    Args:
        widths: Channels of the encoder's layers for each task, strictly ascending.
        features: Feature map of each task except "reconstruction".
        channels: Channels inside the decoders; None for the largest width.
        latents: Channels of the latent for each task, strictly ascending; None for the widths, as in the
            paper. More channels cost little at stride 16; too few limit the accuracy at all rates.
        qualities: Number of operating points; intermediate qualities are multiples of 1/16.

    Attributes:
        tasks: Names of the tasks, in the order of their widths.
        stride: Image sides must be padded to multiples of this, in pixels.
        notes: Further metadata of the model file; empty for a new network.

    Raises:
        ArgumentError: If widths or latents do not ascend, `qualities` is below 1, or tasks and feature maps
            do not match.
    """

    stride: ClassVar[int]
    g_a: Analysis

    def __init__(
        self,
        widths: Mapping[str, int],
        *,
        features: Mapping[str, FeatureMap] | None = None,
        channels: int | None = None,
        latents: Mapping[str, int] | None = None,
        qualities: int = 1,
    ) -> None:
        if len(widths) > MAX_TASKS:
            raise ArgumentError("widths", expected=f"at most {MAX_TASKS} tasks", got=len(widths))
        super().__init__(tuple(widths))
        self.notes: dict[str, str] = {}
        self.widths = check_widths("widths", list(widths.values()))
        self.latents = _check_latents(widths if latents is None else latents, self.tasks)
        self.features = dict(features or {})
        self.channels = max(self.widths) if channels is None else channels
        if not is_whole(self.channels) or self.channels < 1:
            raise ArgumentError("channels", expected="a whole number from 1", got=channels)
        if not is_whole(qualities) or not 1 <= qualities <= MAX_QUALITIES:
            raise ArgumentError(
                "qualities", expected=f"a whole number from 1 to {MAX_QUALITIES}", got=qualities
            )
        self.qualities = int(qualities)
        check_tasks(self.tasks, self.features)
        self.decoders = nn.ModuleDict()
        for task, latent in zip(self.tasks, self.latents, strict=True):
            if task == RECONSTRUCTION:
                self.decoders[task] = Synthesis(latent, self.channels)
            else:
                target = self.features[task]
                self.decoders[task] = feature_decoder(latent, target, self.channels)
        self._build()
        gained = self._gained_latents() if qualities > 1 else ()
        self.latent_gains = nn.ModuleList(LatentGains(latent, qualities) for latent in gained)
        pyramids = [part for part in self.decoders.values() if isinstance(part, Synthesis | FeatureSynthesis)]
        start_as_haar(list(self.g_a.convs), [part.deconvs() for part in pyramids], gain=_STAGE_GAIN)

    # --- what each kind of network says of itself ---------------------------------------------------------

    @abstractmethod
    def _build(self) -> None:
        """Build the encoder g_a and the entropy models, after the decoders."""

    @abstractmethod
    def forward(self, x: Tensor, task: str, quality: float | None = None) -> CodecOutput:
        """Encode at the task's width and decode.

        In training mode, additive noise replaces the rounding of symbols.

        Args:
            x: (N, 3, H, W) in [0, 1], H and W multiples of `stride`.
            task: Name of a task.
            quality: Quality in [1, qualities]; None for the middle.

        Raises:
            ArgumentError: If there is no such task or quality.
        """

    @abstractmethod
    def sections(self, task: str) -> tuple[str, ...]:
        """Return the names of the stream's sections, in coding order."""

    @abstractmethod
    def quantize(self, latents: tuple[Tensor, ...], task: str) -> Symbols:
        """Quantize the latents of one image to integer symbols by section.

        Args:
            latents: Output of `at_width(task, quality)` for one image.
            task: Name of a task.

        Returns:
            Symbols of each section, (C, h, w), integers as float.
        """

    @abstractmethod
    def indexes(
        self,
        task: str,
        section: str,
        decoded: Mapping[str, Tensor],
        size: tuple[int, int],
        watch: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Return the table row of each symbol of a section: (C, h, w) int32.

        Args:
            task: Name of a task.
            section: Name of one of its sections.
            decoded: Symbols of the sections before it.
            size: (height, width) of the padded image in pixels.
            watch: Callback that receives parts of the indexes during long computations; it may raise an
                exception to stop.
        """

    @abstractmethod
    def table(self, task: str, section: str) -> EntropyModel:
        """Return the CompressAI entropy model with the tables of a section."""

    @abstractmethod
    def dequantize(self, symbols: Mapping[str, Tensor], task: str) -> Tensor:
        """Return the dequantized latent, (1, C, h, w), of the symbols of all sections, before `ungained`."""

    @abstractmethod
    def symbol_bits(self, latent: Tensor, symbols: Mapping[str, Tensor], task: str) -> Tensor:
        """Estimate the bits of y's symbols; differentiable scalar.

        Args:
            latent: Symbols of y, (C, h, w), soft or integer.
            symbols: Symbols of all sections; those before y determine how y is coded.
            task: Name of a task.
        """

    @abstractmethod
    def encoder(self, task: str) -> DenseEncoder:
        """Build plain layers with the present weights of the task's encoder, without gains."""

    @abstractmethod
    def bottlenecks(self, task: str) -> list[EntropyBottleneck]:
        """Return the task's entropy bottlenecks, whose quantiles `aux_loss` trains."""

    def latent_sections(self, task: str) -> dict[str, slice]:
        """Return the sections of y with their channels; by default the last one with all channels."""
        return {self.sections(task)[-1]: slice(None)}

    def update_tables(self) -> None:
        """Compute all tables from the weights; called by `update` if needed."""
        for task in self.tasks:
            for bottleneck in self.bottlenecks(task):
                update_bottleneck(bottleneck)

    def check_tables(self) -> None:
        """See `TabledNetwork.check_tables`."""
        for task in self.tasks:
            for section in self.sections(task):
                check_tables(self.table(task, section), f"the tables of {task}, {section},")

    def table_state(self, task: str) -> Iterable[Tensor]:
        """Yield the integer tensors that determine how the task's symbols are coded."""
        for section in self.sections(task):
            model = self.table(task, section)
            yield from (model.quantized_cdf, model.cdf_length, model.offset)

    # --- what they all share ------------------------------------------------------------------------------

    @torch.no_grad()
    def at_width(self, task: str, quality: float | None = None) -> DenseEncoder:
        """Build the task's encoder as a plain dense module with equal outputs, for deployment and export.

        Gains are folded into its last convolution, so that y only has to be rounded. It is a copy: training
        this network does not change it.

        Args:
            task: Name of a task.
            quality: Quality in [1, qualities]; None for the middle.

        Raises:
            ArgumentError: If there is no such task or quality.
        """
        self.index(task)
        encoder = self.encoder(task).eval().requires_grad_(False)
        gains = self._gains(task, quality)
        if gains is not None:
            last = encoder.g_a[-1]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            last.weight.mul_(gains[:, None].to(last.weight))
            last.bias.mul_(gains.flatten().to(last.bias))
        return encoder

    def gained(self, y: Tensor, task: str, quality: float | None = None) -> Tensor:
        """Multiply y, (N, C, h, w), by the gains of a quality, before quantization.

        Raises:
            ArgumentError: If there is no such task or quality.
        """
        gains = self._gains(task, quality)
        return y if gains is None else y * gains

    def ungained(self, y_hat: Tensor, task: str, quality: float | None = None) -> Tensor:
        """Multiply a dequantized latent by the inverse gains; see `gained`."""
        gains = self._gains(task, quality, inverse=True)
        return y_hat if gains is None else y_hat * gains

    def check_quality(self, quality: float | None) -> float:
        """Round a quality to a multiple of 1/16; None gives the middle one.

        Raises:
            ArgumentError: If the network has no such quality.
        """
        return check_quality(quality, self.qualities)

    def decode(self, y_hat: Tensor, task: str) -> Tensor:
        """Decode ŷ to x̂ or f̂."""
        decoded: Tensor = self.decoders[task](y_hat)
        return decoded

    def aux_loss(self, task: str | None = None) -> Tensor:
        """Return the loss of the quantiles of entropy bottlenecks, as CompressAI's `aux_loss`; scalar.

        Args:
            task: Task whose bottlenecks are included; None for all.
        """
        tasks = self.tasks if task is None else (task,)
        losses = [bottleneck.loss() for name in tasks for bottleneck in self.bottlenecks(name)]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def compress(self, x: Tensor, task: str, quality: float | None = None) -> dict[str, Any]:
        """Encode images to strings, as CompressAI's `compress`.

        `vcm.codecs.LearnedCodec` and `SlimmableFeatureCodec` write whole bitstreams, with size, quality and
        fingerprint of the model.

        Args:
            x: (N, 3, H, W) in [0, 1], H and W multiples of `stride`.
            task: Name of a task.
            quality: Quality in [1, qualities]; None for the middle.

        Returns:
            `strings`: for each of `sections(task)`, one bytes object per image. `shape`: (H, W) / `stride`.

        Raises:
            ArgumentError: If there is no such task or quality.
            CodecError: If a latent is not finite, or too large to be coded.
        """
        self.update()
        encoder = self.at_width(task, quality)
        names = self.sections(task)
        tables = {name: CodingTable.of(self.table(task, name)) for name in names}
        strings: list[list[bytes]] = [[] for _ in names]
        for image in torch.split(x, 1):
            y = encoder.g_a(image)
            latents = (y,) if encoder.h_a is None else (y, encoder.h_a(y.abs()))
            for latent in latents:
                check_latent(latent)
            symbols = self.quantize(latents, task)
            for section, name in zip(strings, names, strict=True):
                indexes = self.indexes(task, name, symbols, (x.shape[-2], x.shape[-1])).cpu()
                section.append(encode_symbols(symbols[name], indexes, tables[name]))
        return {"strings": strings, "shape": (x.shape[-2] // self.stride, x.shape[-1] // self.stride)}

    @torch.no_grad()
    def decompress(
        self,
        strings: Sequence[Sequence[bytes]],
        shape: tuple[int, int],
        task: str,
        quality: float | None = None,
    ) -> dict[str, Tensor]:
        """Decode the strings of `compress`, as CompressAI's `decompress`.

        Args:
            strings: Strings from `compress`.
            shape: Shape from `compress`.
            task: Task that the images were compressed for.
            quality: Quality at which they were compressed.

        Returns:
            `x_hat`: (N, 3, H, W) for reconstruction, not clipped; the task's feature maps otherwise.

        Raises:
            ArgumentError: If there is no such task or quality, or `strings` has another number of sections.
            BitstreamError: If a string cannot come from `compress`. Strings have no checksum: damage may go
                unnoticed.
        """
        self.update()
        names, size = self.sections(task), (shape[0] * self.stride, shape[1] * self.stride)
        if len(strings) != len(names):
            raise ArgumentError("strings", expected=f"one list each for {', '.join(names)}", got=len(strings))
        device = next(self.parameters()).device
        tables = {name: CodingTable.of(self.table(task, name)) for name in names}
        decoded = []
        for parts in zip(*strings, strict=True):
            symbols = Symbols()
            for name, data in zip(names, parts, strict=True):
                watch = Budget(data, tables[name]).spend
                indexes = self.indexes(task, name, symbols, size, watch).cpu()
                symbols[name] = decode_symbols(data, indexes, tables[name]).to(device)
            y_hat = self.ungained(self.dequantize(symbols, task), task, quality)
            decoded.append(self.decode(y_hat, task))
        return {"x_hat": torch.cat(decoded)}

    def architecture(self) -> Settings:
        """Return the settings for `build_network`, as plain JSON values."""
        return {
            "network": type(self).__name__,
            "widths": dict(zip(self.tasks, self.widths, strict=True)),
            "features": {task: asdict(target) for task, target in self.features.items()},
            "channels": self.channels,
            "latents": dict(zip(self.tasks, self.latents, strict=True)),
            "qualities": self.qualities,
        }

    def decoding_state(self, task: str) -> Iterable[Tensor]:
        """Yield all tensors that decode the task's stream."""
        yield from self.table_state(task)
        yield from self.decoders[task].state_dict().values()
        if self.qualities > 1:
            yield self.gains_of(task).inverse_logarithms[:, : self.latents[self.index(task)]]

    def decoded_kind(self, task: str) -> Settings | None:
        """Return the settings of the task's feature map; None for images."""
        target = self.features.get(task)
        return asdict(target) if target else None

    def gains_of(self, task: str) -> LatentGains:
        """Return the gains of a task's latent, which may have more channels than the task."""
        gains = self.latent_gains[self.index(task)]
        assert isinstance(gains, LatentGains)
        return gains

    def _gained_latents(self) -> tuple[int, ...]:
        """Return the channels of each latent with its own gains."""
        return self.latents

    def _gains(self, task: str, quality: float | None, *, inverse: bool = False) -> Tensor | None:
        """Return the gains, (C, 1, 1); None for a network of one quality."""
        quality = self.check_quality(quality)
        if self.qualities == 1:
            return None
        return self.gains_of(task).gains(quality, inverse=inverse)[: self.latents[self.index(task)]]


def _check_latents(latents: Mapping[str, int], tasks: tuple[str, ...]) -> tuple[int, ...]:
    """Return the latent channels in the order of the tasks."""
    if not isinstance(latents, Mapping) or set(latents) != set(tasks):
        raise ArgumentError(
            "latents", expected=f"a mapping with one each for {', '.join(tasks)}", got=latents
        )
    return check_widths("latents", [latents[task] for task in tasks])
