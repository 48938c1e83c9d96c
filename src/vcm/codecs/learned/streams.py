"""Encode and decode streams of one task of a multi-task network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vcm.codecs.learned.container import FINGERPRINT_BYTES, PURPOSES, Header, read_stream, write_stream
from vcm.errors import BitstreamError
from vcm.nn.coder import (
    Budget,
    CodingTable,
    check_latent,
    check_section,
    decode_symbols,
    encode_symbols,
)
from vcm.nn.layers import pad_to_multiple
from vcm.nn.slimmable import RECONSTRUCTION, MultiTaskNetwork, Symbols
from vcm.nn.slimmable.transforms import LATENT_STRIDE
from vcm.nn.tiling import in_tiles

TILE = 64
"""Tile size in latent positions: 1024 pixels."""
HALO = 4
"""Latent positions around a tile; g_a reaches 30 pixels beyond it, and g_s less than 2 positions."""
Search = Callable[[Tensor, Symbols], Symbols]
"""Maps y, (1, C, h, w), and its rounded symbols to the symbols to encode."""


class StreamCoder:
    """Encodes and decodes the streams of one task of a network. Thread-safe.

    Args:
        network: Network in evaluation mode, which must not change while the coder is in use.
        task: Task of the network.
        quality: Quality of encoded streams; None for the middle one. Streams of all qualities are decoded.
    """

    def __init__(self, network: MultiTaskNetwork, task: str, quality: float | None = None) -> None:
        self.network, self.task = network, task
        self.fingerprint = network.fingerprint(task)[:FINGERPRINT_BYTES]
        self.channels = network.latents[network.index(task)]
        self.sections = network.sections(task)
        self.quality = network.check_quality(quality)
        self.encoder = network.at_width(task, self.quality)
        self.tables = {name: CodingTable.of(network.table(task, name)) for name in self.sections}
        self.purpose = task if task in PURPOSES else PURPOSES[-1]

    def encode(self, x: Tensor, size: tuple[int, int], search: Search | None = None) -> bytes:
        """Encode an image or a task's input.

        Args:
            x: Tensor (1, 3, H, W) in [0, 1] on the network's device, of any size from 1×1 and any precision.
            size: (height, width) of the original image in pixels.
            search: Improves the rounded symbols of the latent; None for no search.

        Raises:
            CodecError: If the latent is not finite, or out of the range that can be coded.
        """
        with torch.inference_mode(search is None), torch.no_grad():  # a search needs gradients
            x = x.to(next(self.encoder.parameters()).dtype)
            padded = pad_to_multiple(x, self.network.stride)
            stride = LATENT_STRIDE
            y = in_tiles(self._analysis, padded, tile=TILE * stride, halo=HALO * stride, scale=1 / stride)
            latents = (y,) if self.encoder.h_a is None else (y, self.encoder.h_a(y.abs()))
            for latent in latents:
                check_latent(latent)
            symbols = self.network.quantize(latents, self.task)
        if search is not None:
            symbols = search(y, symbols)
        with torch.inference_mode():
            extent = (padded.shape[-2], padded.shape[-1])
            coded = []
            for name in self.sections:
                indexes = self.network.indexes(self.task, name, symbols, extent).cpu()
                coded.append(encode_symbols(symbols[name], indexes, self.tables[name]))
        coded_size = (x.shape[-2], x.shape[-1])
        header = Header(self.purpose, self.fingerprint, self.channels, size, coded_size, self.quality)
        return write_stream(header, coded)

    def read(self, data: bytes) -> tuple[Header, tuple[bytes, ...]]:
        """Parse a stream and check it as far as possible before any network runs.

        Raises:
            BitstreamError: If it is not a complete, undamaged stream of this model and task.
        """
        stream = read_stream(data)
        header = stream.header
        if header.fingerprint != self.fingerprint:
            for other in self.network.tasks:
                if header.fingerprint == self.network.fingerprint(other)[:FINGERPRINT_BYTES]:
                    raise BitstreamError(
                        f"the stream was encoded with this model for {other}, not for {self.task}."
                    )
            raise BitstreamError(
                f"the stream was encoded with another model: it has fingerprint {header.fingerprint.hex()}, "
                f"this model {self.fingerprint.hex()}."
            )
        if header.purpose != self.purpose:
            raise BitstreamError(f"the stream does not match its model: its purpose is {header.purpose}.")
        if self.task == RECONSTRUCTION and header.coded_size != header.size:
            raise BitstreamError(
                f"the stream is damaged: an image of size {header.size} cannot be coded as "
                f"{header.coded_size}."
            )
        if header.channels != self.channels or len(stream.sections) != len(self.sections):
            raise BitstreamError(
                f"the stream does not match its model: it has {header.channels} channels in "
                f"{len(stream.sections)} sections, not {self.channels} in {len(self.sections)}."
            )
        if not 1 <= header.quality <= self.network.qualities:
            theirs = f"1 to {self.network.qualities}" if self.network.qualities > 1 else "only 1"
            raise BitstreamError(
                f"the stream does not match its model: it has quality {header.quality:g}, the model {theirs}."
            )
        for section in stream.sections:  # check all of them before decoding the first
            check_section(section)
        return header, stream.sections

    def _analysis(self, x: Tensor) -> Tensor:
        """Apply g_a to one tile, in channels-last layout for speed."""
        y: Tensor = self.encoder.g_a(x.contiguous(memory_format=torch.channels_last))
        return y

    @torch.inference_mode()
    def decode(self, data: bytes) -> tuple[Header, Tensor]:
        """Decode a stream to the output of the task's decoder: an image (1, 3, H, W) or a feature map, on the
        network's device.

        Raises:
            BitstreamError: If the stream is invalid (see `read`), or the decoder's output is not finite.
        """
        header, sections = self.read(data)
        height, width = (-(-side // self.network.stride) * self.network.stride for side in header.coded_size)
        device = next(self.network.parameters()).device
        symbols = Symbols()
        for name, section in zip(self.sections, sections, strict=True):
            watch = Budget(section, self.tables[name]).spend
            indexes = self.network.indexes(self.task, name, symbols, (height, width), watch).cpu()
            symbols[name] = decode_symbols(section, indexes, self.tables[name]).to(device)
        y_hat = self.network.ungained(self.network.dequantize(symbols, self.task), self.task, header.quality)
        y_hat = y_hat.to(next(self.network.decoders[self.task].parameters()).dtype)
        if self.task == RECONSTRUCTION:
            decoder = self.network.decoders[self.task]
            decoded = in_tiles(decoder, y_hat, tile=TILE, halo=HALO, scale=LATENT_STRIDE)
            _check_finite(decoded)
            return header, decoded[..., : header.coded_size[0], : header.coded_size[1]]
        decoded = self.network.decode(y_hat, self.task)
        _check_finite(decoded)
        stride = self.network.features[self.task].stride
        rows, columns = (-(-side // stride) for side in header.coded_size)
        return header, decoded[..., :rows, :columns]


def _check_finite(decoded: Tensor) -> None:
    low, high = decoded.aminmax()
    if not (low.isfinite() and high.isfinite()):
        raise BitstreamError(
            "the decoder gives NaN or infinite values for this stream: the stream or the model's weights are "
            "damaged."
        )
