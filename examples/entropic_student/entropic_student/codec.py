"""The student as a feature codec: real bytes by CompressAI's range coder."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from entropic_student.network import EntropicStudent
from vcm.codecs import FeatureCodec
from vcm.errors import BitstreamError, WeightsError
from vcm.nn.content import state_sha256
from vcm.nn.models import load_model
from vcm.nn.slimmable import FeatureMap
from vcm.types import QualityScale, Settings

HEADER = struct.Struct(">2s4HI")
"""Magic, (height, width) of the image and of the latent, CRC-32 of what follows."""
MAGIC = b"ES"


class EntropicStudentCodec(FeatureCodec):
    """Encodes a detector's input to what an `EntropicStudent` decodes to the detector's features.

    Args:
        quality: Number of the model, which takes the place of "{quality}" in `model`.
        model: A file that `DistillationModule` wrote; a curve has one for each λ.

    Raises:
        WeightsError: If the model file cannot be read.
    """

    name = "entropic_student"
    title = "Entropic Student"
    suffix = ".es"
    quality_scale = QualityScale("model", 1, 99, higher_is_better=True, default=1)

    def __init__(self, quality: int = 1, *, model: str | Path) -> None:
        self.quality = self.quality_scale.check(quality)
        self.model = str(model)
        network = load_model(self.model.replace("{quality}", f"{self.quality:g}"))
        if not isinstance(network, EntropicStudent):
            raise WeightsError(f"{self.model} holds a {type(network).__name__}, not an EntropicStudent.")
        self.network = network

    @property
    def feature_map(self) -> FeatureMap:
        """Channels and stride at the teacher's cut."""
        return FeatureMap(self.network.channels, self.network.stride)

    @torch.no_grad()
    def encode(
        self, x: Tensor, size: tuple[int, int], on_step: Callable[[int, int], None] | None = None
    ) -> bytes:
        """See `FeatureCodec.encode`."""
        coded = self.network.compress(x)
        (data,) = coded["strings"]
        return HEADER.pack(MAGIC, *size, *coded["shape"], zlib.crc32(data)) + bytes(data)

    @torch.no_grad()
    def decode(self, data: bytes) -> tuple[Tensor, tuple[int, int]]:
        """See `FeatureCodec.decode`."""
        if len(data) < HEADER.size:
            raise BitstreamError(f"The stream ends in its header, after {len(data)} bytes.")
        magic, *sizes, checksum = HEADER.unpack_from(data)
        body = data[HEADER.size :]
        if magic != MAGIC or zlib.crc32(body) != checksum:
            raise BitstreamError("the stream is damaged, or of another codec")
        height, width, rows, columns = sizes
        return self.network.decompress([body], (rows, columns)), (height, width)

    def settings(self) -> Settings:
        """Return what decides the bytes: the weights, wherever the file lies."""
        weights = state_sha256(self.network.state_dict())
        return {**super().settings(), "model": self.network.architecture(), "weights_sha256": weights}
