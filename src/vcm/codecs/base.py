"""Codec interface: RGB image → bytes → RGB image."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from vcm.codecs.headers import MAX_PIXELS
from vcm.errors import ArgumentError, BitstreamError
from vcm.types import QualityScale, Settings

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    Array = npt.NDArray[np.uint8]


class CodecSettings(ABC):
    """Names, quality scale and settings of a codec.

    Class attributes:
        name: Short name, used in configs and reports.
        title: Display name, used in plot legends.
        suffix: File suffix of its streams, with the dot.
        quality_scale: Meaning and range of `quality`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffix: ClassVar[str]
    quality_scale: ClassVar[QualityScale]

    quality: float

    @classmethod
    def unavailable(cls) -> str:
        """Return why this codec cannot run here and how to fix it; empty if it can."""
        return ""

    def settings(self) -> Settings:
        """Return constructor arguments and `implementation`, which determine the bytes, as JSON values."""
        return {"name": self.name, **self._arguments(), "implementation": self.implementation()}

    def _arguments(self) -> Settings:
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if name != "self"}

    def implementation(self) -> str:
        """Return name and version of the library or program; records of another version are not reused."""
        return ""

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}({arguments})"


class Codec(CodecSettings):
    """Encodes an image to bytes and decodes the bytes to an image.

    A codec gets its settings in the constructor and keeps no state between calls, so that several threads can
    share an instance. Every constructor argument must be stored as an attribute of the same name; `settings`
    reads these attributes.
    """

    @abstractmethod
    def encode(self, image: Tensor) -> bytes:
        """Encode one image.

        Args:
            image: RGB image (3, H, W), uint8, of any size from 1×1.

        Raises:
            ArgumentError: If `image` is not such a tensor.
            CodecError: If the encoder fails.
        """

    @abstractmethod
    def decode(self, data: bytes) -> Tensor:
        """Decode to an RGB image (3, H, W), uint8, of exactly the original size.

        Raises:
            BitstreamError: If `data` is not a complete, undamaged stream of this codec.
        """

    def interrupt(self) -> None:
        """Interrupt calls in other threads, if possible; they get a CodecError."""


class ArrayCodec(Codec):
    """Base class of codecs that work on NumPy arrays (H, W, 3), uint8, RGB."""

    @abstractmethod
    def encode_array(self, pixels: Array) -> bytes:
        """Encode RGB pixels (H, W, 3), uint8."""

    @abstractmethod
    def decode_array(self, data: bytes) -> Array:
        """Decode to RGB pixels (H, W, 3), uint8."""

    def encode(self, image: Tensor) -> bytes:
        """Encode an RGB image (3, H, W), uint8; see `Codec.encode`."""
        check_image(image)
        return self.encode_array(image.permute(1, 2, 0).contiguous().cpu().numpy())

    def decode(self, data: bytes) -> Tensor:
        """Decode to an RGB image (3, H, W), uint8; see `Codec.decode`."""
        import torch

        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise ArgumentError("data", expected="bytes from encode", got=type(data).__name__)
        data = bytes(data)
        if not data:
            raise BitstreamError(f"{self.title}: the stream is empty (0 bytes).")
        return torch.from_numpy(self.decode_array(data)).permute(2, 0, 1).contiguous()


def check_image(image: Tensor) -> None:
    """Raise ArgumentError unless `image` is a (3, H, W) uint8 tensor with H, W ≥ 1 and H·W ≤ `MAX_PIXELS`."""
    import torch

    expected = f"a (3, H, W) uint8 RGB tensor with H, W >= 1 and H * W <= {MAX_PIXELS}"
    if not isinstance(image, torch.Tensor):
        raise ArgumentError("image", expected=expected, got=type(image).__name__)
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ArgumentError(
            "image",
            expected=expected,
            got=f"{tuple(image.shape)} {image.dtype}",
            remedy="Networks use float in [0, 1]: convert with (x * 255).round().to(torch.uint8).",
        )
    if image.shape[1] * image.shape[2] > MAX_PIXELS:
        raise ArgumentError(
            "image", expected=expected, got=f"{image.shape[1]}x{image.shape[2]}", remedy="Split the image."
        )
