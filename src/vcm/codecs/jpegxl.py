"""JPEG XL with the optional package pillow-jxl-plugin."""

from __future__ import annotations

from typing import Any, ClassVar

from vcm.codecs.headers import check_pixels
from vcm.codecs.pillow import PillowCodec
from vcm.errors import BitstreamError
from vcm.types import QualityScale
from vcm.validation import check_whole

_MAGIC = b"\xff\x0a"
_ASPECT_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SIZE_BITS = (9, 13, 18, 30)


class JPEGXLCodec(PillowCodec):
    """Lossy JPEG XL (ISO/IEC 18181) with libjxl, as a bare codestream.

    Args:
        quality: 0 to 100, converted to libjxl's Butteraugli distance; 100 is lossless.
        effort: libjxl effort, 1 (fast) to 9.

    Raises:
        ArgumentError: If an argument is invalid.
    """

    name: ClassVar[str] = "jxl"
    title: ClassVar[str] = "JPEG XL"
    suffix: ClassVar[str] = ".jxl"
    quality_scale: ClassVar[QualityScale] = QualityScale(
        "quality", low=0, high=100, higher_is_better=True, default=75
    )
    pillow_format: ClassVar[str] = "JXL"

    def __init__(self, quality: float = quality_scale.default, *, effort: int = 7) -> None:
        self.quality = self.quality_scale.check(quality)
        self.effort = check_whole("effort", effort, 1, 9)

    def save_options(self) -> dict[str, Any]:
        """Return the options of Pillow's `Image.save`."""
        return {
            "quality": self.quality,
            "lossless": self.quality == self.quality_scale.high,
            "effort": self.effort,
            "num_threads": 1,
        }

    def check_stream(self, data: bytes) -> None:
        """Check the image size, because the plugin decodes as soon as it opens a stream.

        Raises:
            BitstreamError: If `data` is not a bare codestream, or its image is too large.
        """
        if not data.startswith(_MAGIC):
            raise BitstreamError("JPEG XL: the stream does not begin with the codestream magic bytes ff 0a.")
        check_pixels(self.title, *_read_size(data[2:14]))

    def _prepare(self) -> None:
        super()._prepare()
        import pillow_jxl  # noqa: F401  (registers the format with Pillow)

    @classmethod
    def unavailable(cls) -> str:
        """Return why this codec cannot run here; empty if it can."""
        from importlib.util import find_spec

        return "" if find_spec("pillow_jxl") else "pillow-jxl-plugin is missing: pip install 'vcm[jxl]'"

    def implementation(self) -> str:
        """Return the version of the plugin, whose wheels contain libjxl."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return f"pillow-jxl-plugin {version('pillow-jxl-plugin')}"
        except PackageNotFoundError:
            return "pillow-jxl-plugin (not installed)"


def _read_size(data: bytes) -> tuple[int, int]:
    """Return (width, height) from a codestream's SizeHeader (ISO/IEC 18181-1), lowest bits first."""
    value, position = int.from_bytes(data, "little"), 0

    def take(num_bits: int) -> int:
        nonlocal position
        position += num_bits
        return (value >> position - num_bits) & ((1 << num_bits) - 1)

    div8 = take(1)

    def side() -> int:
        return 8 * (1 + take(5)) if div8 else 1 + take(_SIZE_BITS[take(2)])

    height = side()
    ratio = take(3)
    if ratio:
        numerator, denominator = _ASPECT_RATIOS[ratio - 1]
        return height * numerator // denominator, height
    return side(), height
