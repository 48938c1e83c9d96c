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
    """A codec that Pillow encodes and decodes; subclasses say with which format and options.

    Class attributes:
        pillow_format: Pillow's name of the format.
        pillow_feature: Pillow's name of the library that it needs, with its version.
        max_side: The most pixels a side that the format or its encoder takes; 0 for no limit.
    """

    pillow_format: ClassVar[str]
    pillow_feature: ClassVar[str]
    max_side: ClassVar[int] = 0

    @abstractmethod
    def save_options(self) -> dict[str, Any]:
        """Arguments of Pillow's `Image.save` that these settings amount to."""

    def encode_array(self, pixels: Array) -> bytes:
        """Encode (H, W, 3) uint8 RGB pixels.

        Raises:
            ArgumentError: If a side is longer than the format allows.
            CodecError: If the encoder fails.
            MissingToolError: If this Pillow lacks the format.
        """
        from PIL import Image

        height, width, _ = pixels.shape
        if self.max_side and max(height, width) > self.max_side:
            expected = f"at most {self.max_side} pixels a side for {self.title}"
            raise ArgumentError("image", expected=expected, got=f"{height}x{width}")
        self._prepare()
        buffer = io.BytesIO()
        try:
            Image.fromarray(pixels).save(buffer, format=self.pillow_format, **self.save_options())
        except Exception as error:
            raise CodecError(
                f"{self.title}: the encoder failed on an image of {height}x{width}: {error}"
            ) from error
        return buffer.getvalue()

    def decode_array(self, data: bytes) -> Array:
        """Decode to (H, W, 3) uint8 RGB pixels.

        Raises:
            BitstreamError: If `data` is not a whole stream of this format, or holds more than `MAX_PIXELS`
                pixels.
            MissingToolError: If this Pillow lacks the format.
        """
        import numpy as np
        from PIL import Image, UnidentifiedImageError

        self._prepare()
        self.check_stream(data)
        try:
            with Image.open(io.BytesIO(data), formats=[self.pillow_format]) as image:
                check_pixels(self.title, *image.size)
                # An image that is RGB already would be copied by convert().
                return np.array(image if image.mode == "RGB" else image.convert("RGB"))
        except BitstreamError:
            raise
        except UnidentifiedImageError as error:
            raise BitstreamError(f"{self.title}: the stream is damaged or of another format.") from error
        except (
            Exception
        ) as error:  # what damage makes of it: OSError, SyntaxError, ValueError, RuntimeError, …
            raise BitstreamError(f"{self.title}: the stream is damaged: {error}") from error

    def check_stream(self, data: bytes) -> None:
        """Check what Pillow lets pass or looks at too late.

        Raises:
            BitstreamError: If `data` is truncated, or its image too large.
        """

    def _prepare(self) -> None:
        if reason := self.unavailable():
            raise MissingToolError(f"{self.title} cannot run here: {reason}")

    @classmethod
    def unavailable(cls) -> str:
        """Why this codec cannot run here; empty where it can."""
        from PIL import features

        if features.check(cls.pillow_feature):
            return ""
        return (
            f"this build of Pillow lacks {cls.title}; install Pillow's own wheel: pip install 'pillow>=11.3'"
        )

    def implementation(self) -> str:
        """Versions of Pillow and of the library inside."""
        import PIL
        from PIL import features

        return f"Pillow {PIL.__version__}, {self.pillow_feature} {features.version(self.pillow_feature)}"


class JPEGCodec(PillowCodec):
    """JPEG (ITU-T T.81) by libjpeg-turbo; the defaults give the bytes of CompressAI's `JPEG`.

    Args:
        quality: libjpeg's quality, 1 to 100.
        chroma: "420", "422" or "444".
        optimize: Whether to fit the Huffman tables to the image.
        progressive: Whether to write a progressive stream.

    Raises:
        ArgumentError: If an argument is not one of these.
    """

    name: ClassVar[str] = "jpeg"
    title: ClassVar[str] = "JPEG"
    suffix: ClassVar[str] = ".jpg"
    # From 1: Pillow takes 0 for "nothing said".
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
        """Arguments of Pillow's `Image.save`."""
        return {
            "quality": self.quality,
            "subsampling": SUBSAMPLINGS[self.chroma],
            "optimize": self.optimize,
            "progressive": self.progressive,
        }

    def check_stream(self, data: bytes) -> None:
        """Check for the end marker, which libjpeg does without, and for enough bytes.

        Raises:
            BitstreamError: If `data` is truncated, or cannot hold as many pixels as it says.
        """
        _check_end_marker(self.title, data)
        frame = jpeg_size(data)
        if frame is not None:
            check_pixels(self.title, *frame)
            # Huffman codes have a bit or more, and every 8x8 block of the finest plane has one.
            width, height = frame
            if 8 * len(data) < -(-width // 8) * -(-height // 8):
                raise BitstreamError(f"JPEG: {len(data)} bytes cannot hold an image of {height}x{width}.")


class WebPCodec(PillowCodec):
    """WebP, lossy, by libwebp; the defaults give the bytes of CompressAI's `WebP`.

    Args:
        quality: libwebp's quality, 0 to 100.
        method: Effort, 0 (fast) to 6.

    Raises:
        ArgumentError: If an argument is not one of these.
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
        """Arguments of Pillow's `Image.save`."""
        return {"quality": self.quality, "method": self.method}

    def check_stream(self, data: bytes) -> None:
        """Check the size: Pillow takes memory for two whole images when it opens a stream.

        Raises:
            BitstreamError: If the image is too large.
        """
        size = webp_size(data)
        if size is not None:  # else Pillow tells what is wrong with it
            check_pixels(self.title, *size)


class AVIFCodec(PillowCodec):
    """AVIF by libaom, on one thread: more threads cut the image into tiles, which changes the bytes.

    Args:
        quality: libavif's quality, 0 to 100.
        chroma: "420", "422" or "444".
        speed: libaom's speed, 0 (slow) to 10.

    Raises:
        ArgumentError: If an argument is not one of these.
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
        """Arguments of Pillow's `Image.save`."""
        return {
            "quality": self.quality,
            "subsampling": SUBSAMPLINGS[self.chroma],
            "speed": self.speed,
            "codec": "aom",
            "max_threads": 1,
        }


class JPEG2000Codec(PillowCodec):
    """JPEG 2000 (ITU-T T.800) by OpenJPEG: 9/7 wavelet, irreversible colour transform, one quality layer.

    Quality is the PSNR that the encoder aims at, and not a compression ratio: like the other codecs'
    qualities it then gives busy images more bytes than plain ones.

    Args:
        quality: PSNR in dB that the encoder aims at, 15 to 60, as OpenJPEG reckons it over the transformed
            planes.

    Raises:
        ArgumentError: If `quality` is not on this scale.
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
        """Arguments of Pillow's `Image.save`."""
        return {"irreversible": True, "mct": 1, "quality_mode": "dB", "quality_layers": [self.quality]}

    def check_stream(self, data: bytes) -> None:
        """Check for the end marker: OpenJPEG does without."""
        _check_end_marker(self.title, data)


def _check_end_marker(title: str, data: bytes) -> None:
    if not data.endswith(b"\xff\xd9"):
        raise BitstreamError(
            f"{title}: the stream is truncated or of another format: it has no end marker ff d9."
        )
