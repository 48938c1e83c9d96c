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
    """What every codec says of itself: names, its quality scale, its settings.

    Class attributes:
        name: Short name, as in configs and reports.
        title: Name for people, as in a plot's legend.
        suffix: File suffix of its streams, with the dot.
        quality_scale: What `quality` means and which values it takes.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffix: ClassVar[str]
    quality_scale: ClassVar[QualityScale]

    quality: float

    @classmethod
    def unavailable(cls) -> str:
        """Why this codec cannot run here and how to mend that; empty where it can."""
        return ""

    def settings(self) -> Settings:
        """Constructor arguments as plain JSON values, with what else decides the bytes (`implementation`)."""
        return {"name": self.name, **self._arguments(), "implementation": self.implementation()}

    def _arguments(self) -> Settings:
        names = inspect.signature(type(self).__init__).parameters
        return {name: getattr(self, name) for name in names if name != "self"}

    def implementation(self) -> str:
        """Name and version of what does the work: library or program; another one makes records stale."""
        return ""

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._arguments().items())
        return f"{type(self).__name__}({arguments})"


class Codec(CodecSettings):
    """Turns one image into the bytes that would be sent, and those bytes back into an image.

    A codec is built with its settings and keeps nothing between calls, so many threads may use one instance.
    Every constructor argument is kept as an attribute of the same name; `settings` reads them from there.
    """

    @abstractmethod
    def encode(self, image: Tensor) -> bytes:
        """Encode one image.

        Args:
            image: (3, H, W) uint8, RGB, any size from 1×1.

        Raises:
            ArgumentError: If `image` is not such a tensor.
            CodecError: If the encoder fails.
        """

    @abstractmethod
    def decode(self, data: bytes) -> Tensor:
        """Decode one image to (3, H, W) uint8, RGB, of exactly the size that was encoded.

        Raises:
            BitstreamError: If `data` is not a whole, undamaged stream of this codec.
        """

    def interrupt(self) -> None:
        """End what this codec does in other threads, as far as it can be ended; they get a CodecError."""


class ArrayCodec(Codec):
    """A codec whose library speaks NumPy: subclasses handle (H, W, 3) uint8 arrays, RGB."""

    @abstractmethod
    def encode_array(self, pixels: Array) -> bytes:
        """Encode (H, W, 3) uint8 RGB pixels."""

    @abstractmethod
    def decode_array(self, data: bytes) -> Array:
        """Decode to (H, W, 3) uint8 RGB pixels."""

    def encode(self, image: Tensor) -> bytes:
        """Encode (3, H, W) uint8 RGB; see `Codec.encode`."""
        check_image(image)
        return self.encode_array(image.permute(1, 2, 0).contiguous().cpu().numpy())

    def decode(self, data: bytes) -> Tensor:
        """Decode to (3, H, W) uint8 RGB; see `Codec.decode`."""
        import torch

        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise ArgumentError("data", expected="bytes, as encode returns them", got=type(data).__name__)
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
            "image", expected=expected, got=f"{image.shape[1]}x{image.shape[2]}", remedy="Cut it up."
        )
