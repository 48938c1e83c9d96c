"""JPEG, WebP, AVIF and JPEG 2000 through Pillow."""

from __future__ import annotations

import io
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from vcm.codecs.base import ArrayCodec
from vcm.codecs.headers import check_pixels, jpeg_size, webp_size
from vcm.errors import ArgumentError, BitstreamError, CodecError, MissingToolError
from vcm.types import QualityScale
from vcm.validation import check_choice, check_whole

if TYPE_CHECKING:
    from vcm.codecs.base import Array

SUBSAMPLINGS = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}
_PERCENT = QualityScale("quality", low=0, high=100, higher_is_better=True, default=75)


class PillowCodec(ArrayCodec):
    """Base class of codecs that Pillow implements; subclasses define format and options.

    Class attributes:
        pillow_format: Pillow's name of the format.
        pillow_feature: Pillow's name of the required library.
        max_side: Maximum height and width in pixels of the format or its encoder; 0 for no limit.
    """

    pillow_format: ClassVar[str]
    pillow_feature: ClassVar[str]
    max_side: ClassVar[int] = 0

    @abstractmethod
    def save_options(self) -> dict[str, Any]:
        """Return the options of Pillow's `Image.save` for these settings."""

    def encode_array(self, pixels: Array) -> bytes:
        """Encode RGB pixels (H, W, 3), uint8.

        Raises:
            ArgumentError: If a side is longer than the format allows.
            CodecError: If the encoder fails.
            MissingToolError: If this build of Pillow lacks the format.
        """
        from PIL import Image

        height, width, _ = pixels.shape
        if self.max_side and max(height, width) > self.max_side:
            expected = f"at most {self.max_side} pixels per side for {self.title}"
            raise ArgumentError("image", expected=expected, got=f"{height}x{width}")
        self._prepare()
        buffer = io.BytesIO()
        try:
            Image.fromarray(pixels).save(buffer, format=self.pillow_format, **self.save_options())
        except Exception as error:
            raise CodecError(
                f"{self.title}: the encoder failed on an image of size {height}x{width}: {error}"
            ) from error
        return buffer.getvalue()

    def decode_array(self, data: bytes) -> Array:
        """Decode to RGB pixels (H, W, 3), uint8.

        Raises:
            BitstreamError: If `data` is not a complete stream of this format, or has more than `MAX_PIXELS`
                pixels.
            MissingToolError: If this build of Pillow lacks the format.
        """
        import numpy as np
        from PIL import Image, UnidentifiedImageError

        self._prepare()
        self.check_stream(data)
        try:
            with Image.open(io.BytesIO(data), formats=[self.pillow_format]) as image:
                check_pixels(self.title, *image.size)
                # convert() would copy an image that is RGB already.
                return np.array(image if image.mode == "RGB" else image.convert("RGB"))
        except BitstreamError:
            raise
        except UnidentifiedImageError as error:
            raise BitstreamError(f"{self.title}: the stream is damaged or has another format.") from error
        except Exception as error:  # damage can raise OSError, SyntaxError, ValueError, RuntimeError, …
            raise BitstreamError(f"{self.title}: the stream is damaged: {error}") from error

    def check_stream(self, data: bytes) -> None:
        """Check what Pillow accepts or checks too late.

        Raises:
            BitstreamError: If `data` is truncated or its image is too large.
        """

    def _prepare(self) -> None:
        if reason := self.unavailable():
            raise MissingToolError(f"{self.title} cannot run here: {reason}")

    @classmethod
    def unavailable(cls) -> str:
        """Return why this codec cannot run here; empty if it can."""
        from PIL import features

        if features.check(cls.pillow_feature):
            return ""
        return (
            f"this build of Pillow lacks {cls.title}; install an official wheel: pip install 'pillow>=11.3'"
        )

    def implementation(self) -> str:
        """Return the versions of Pillow and of the underlying library."""
        import PIL
        from PIL import features

        return f"Pillow {PIL.__version__}, {self.pillow_feature} {features.version(self.pillow_feature)}"


class JPEGCodec(PillowCodec):
    """JPEG (ITU-T T.81) with libjpeg-turbo. The defaults give the same bytes as CompressAI's `JPEG`.

    Args:
        quality: libjpeg quality, 1 to 100.
        chroma: Chroma subsampling: "420", "422" or "444".
        optimize: Whether to optimize the Huffman tables for the image.
        progressive: Whether to write a progressive stream.

    Raises:
        ArgumentError: If an argument is invalid.
    """

    name: ClassVar[str] = "jpeg"
    title: ClassVar[str] = "JPEG"
    suffix: ClassVar[str] = ".jpg"
    # From 1, because Pillow treats 0 as "not set".
    quality_scale: ClassVar[QualityScale] = QualityScale(
        "quality", low=1, high=100, higher_is_better=True, default=75
    )
    pillow_format: ClassVar[str] = "JPEG"
    pillow_feature: ClassVar[str] = "jpg"
    max_side: ClassVar[int] = 65500

    def __init__(
        self,
        quality: float = quality_scale.default,
        *,
        chroma: str | int = "420",
        optimize: bool = False,
        progressive: bool = False,
    ) -> None:
        self.quality = self.quality_scale.check(quality)
        self.chroma = check_choice("chroma", str(chroma), SUBSAMPLINGS)
        self.optimize = check_choice("optimize", optimize, (False, True))
        self.progressive = check_choice("progressive", progressive, (False, True))

    def save_options(self) -> dict[str, Any]:
        """Return the options of Pillow's `Image.save`."""
        return {
            "quality": self.quality,
            "subsampling": SUBSAMPLINGS[self.chroma],
            "optimize": self.optimize,
            "progressive": self.progressive,
        }

    def check_stream(self, data: bytes) -> None:
        """Check for the end marker, which libjpeg does not require, and for a plausible length.

        Raises:
            BitstreamError: If `data` is truncated, or too short for the image size in its header.
        """
        _check_end_marker(self.title, data)
        frame = jpeg_size(data)
        if frame is not None:
            check_pixels(self.title, *frame)
            # Every 8x8 block of the finest plane takes at least one bit of Huffman code.
            width, height = frame
            if 8 * len(data) < -(-width // 8) * -(-height // 8):
                raise BitstreamError(f"JPEG: {len(data)} bytes cannot contain an image of {height}x{width}.")


class WebPCodec(PillowCodec):
    """Lossy WebP with libwebp. The defaults give the same bytes as CompressAI's `WebP`.

    Args:
        quality: libwebp quality, 0 to 100.
        method: Effort, 0 (fast) to 6.

    Raises:
        ArgumentError: If an argument is invalid.
    """

    name: ClassVar[str] = "webp"
    title: ClassVar[str] = "WebP"
    suffix: ClassVar[str] = ".webp"
    quality_scale: ClassVar[QualityScale] = _PERCENT
    pillow_format: ClassVar[str] = "WEBP"
    pillow_feature: ClassVar[str] = "webp"
    max_side: ClassVar[int] = 16383

    def __init__(self, quality: float = quality_scale.default, *, method: int = 4) -> None:
        self.quality = self.quality_scale.check(quality)
        self.method = check_whole("method", method, 0, 6)

    def save_options(self) -> dict[str, Any]:
        """Return the options of Pillow's `Image.save`."""
        return {"quality": self.quality, "method": self.method}

    def check_stream(self, data: bytes) -> None:
        """Check the image size, because Pillow allocates two whole images when it opens a stream.

        Raises:
            BitstreamError: If the image is too large.
        """
        size = webp_size(data)
        if size is not None:  # otherwise Pillow reports the error
            check_pixels(self.title, *size)


class AVIFCodec(PillowCodec):
    """AVIF with libaom on a single thread; more threads would add tiles, which changes the bytes.

    Args:
        quality: libavif quality, 0 to 100.
        chroma: Chroma subsampling: "420", "422" or "444".
        speed: libaom speed, 0 (slow) to 10.

    Raises:
        ArgumentError: If an argument is invalid.
    """

    name: ClassVar[str] = "avif"
    title: ClassVar[str] = "AVIF"
    suffix: ClassVar[str] = ".avif"
    quality_scale: ClassVar[QualityScale] = _PERCENT
    pillow_format: ClassVar[str] = "AVIF"
    pillow_feature: ClassVar[str] = "avif"
    max_side: ClassVar[int] = 32768

    def __init__(
        self, quality: float = quality_scale.default, *, chroma: str | int = "420", speed: int = 6
    ) -> None:
        self.quality = self.quality_scale.check(quality)
        self.chroma = check_choice("chroma", str(chroma), SUBSAMPLINGS)
        self.speed = check_whole("speed", speed, 0, 10)

    def save_options(self) -> dict[str, Any]:
        """Return the options of Pillow's `Image.save`."""
        return {
            "quality": self.quality,
            "subsampling": SUBSAMPLINGS[self.chroma],
            "speed": self.speed,
            "codec": "aom",
            "max_threads": 1,
        }


class JPEG2000Codec(PillowCodec):
    """JPEG 2000 (ITU-T T.800) with OpenJPEG: 9/7 wavelet, irreversible colour transform, one quality layer.

    The quality is a target PSNR rather than a compression ratio, so that complex images get more bytes than
    simple ones, as with the other codecs.

    Args:
        quality: Target PSNR in dB, 15 to 60, as OpenJPEG measures it on the transformed planes.

    Raises:
        ArgumentError: If `quality` is out of range.
    """

    name: ClassVar[str] = "jpeg2000"
    title: ClassVar[str] = "JPEG 2000"
    suffix: ClassVar[str] = ".jp2"
    quality_scale: ClassVar[QualityScale] = QualityScale(
        "target PSNR in dB", low=15, high=60, higher_is_better=True, default=35, integer=False
    )
    pillow_format: ClassVar[str] = "JPEG2000"
    pillow_feature: ClassVar[str] = "jpg_2000"

    def __init__(self, quality: float = quality_scale.default) -> None:
        self.quality = self.quality_scale.check(quality)

    def save_options(self) -> dict[str, Any]:
        """Return the options of Pillow's `Image.save`."""
        return {"irreversible": True, "mct": 1, "quality_mode": "dB", "quality_layers": [self.quality]}

    def check_stream(self, data: bytes) -> None:
        """Check for the end marker, which OpenJPEG does not require."""
        _check_end_marker(self.title, data)


def _check_end_marker(title: str, data: bytes) -> None:
    if not data.endswith(b"\xff\xd9"):
        raise BitstreamError(
            f"{title}: the stream is truncated or has another format: the end marker ff d9 is missing."
        )
