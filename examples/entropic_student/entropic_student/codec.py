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
from vcm.errors import ArgumentError, BitstreamError, WeightsError
from vcm.nn.models import load_model
from vcm.nn.slimmable import FeatureMap
from vcm.nn.weights import state_sha256
from vcm.types import QualityScale, Settings

SIZES, CHECKSUM = struct.Struct(">2s4H"), struct.Struct(">I")
"""Magic, (height, width) of the image and of the network's input; CRC-32 of that and of what follows."""
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
        if x.ndim != 4 or x.shape[:2] != (1, 3) or 0 in x.shape or not x.is_floating_point():
            raise ArgumentError("x", expected="float (1, 3, H, W)", got=f"{tuple(x.shape)} {x.dtype}")
        if not x.isfinite().all():
            raise ArgumentError("x", expected="RGB in [0, 1]", got="NaN or infinite pixels")
        if not all(1 <= side < 1 << 16 for side in (*size, *x.shape[2:])):
            raise ArgumentError("size", expected="sides from 1 to 65535", got=(size, tuple(x.shape[2:])))
        (data,) = self.network.compress(x)["strings"]
        head = SIZES.pack(MAGIC, *size, *x.shape[2:])
        return head + CHECKSUM.pack(zlib.crc32(head + data)) + bytes(data)

    @torch.no_grad()
    def decode(self, data: bytes) -> tuple[Tensor, tuple[int, int]]:
        """See `FeatureCodec.decode`."""
        start = SIZES.size + CHECKSUM.size
        if len(data) < start:
            raise BitstreamError(f"The stream ends in its header, after {len(data)} bytes.")
        head, body = data[: SIZES.size], data[start:]
        magic, height, width, rows, columns = SIZES.unpack(head)
        if magic != MAGIC or CHECKSUM.unpack(data[SIZES.size : start]) != (zlib.crc32(head + body),):
            raise BitstreamError("The stream is damaged, or of another codec.")
        stride = self.network.stride
        shape = (-(-rows // stride), -(-columns // stride))
        return self.network.decompress([body], shape), (height, width)

    def settings(self) -> Settings:
        """Return what decides the bytes: the weights, wherever the file lies."""
        weights = state_sha256(self.network.state_dict())
        return {**super().settings(), "model": self.network.architecture(), "weights_sha256": weights}
