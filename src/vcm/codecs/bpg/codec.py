"""In-process BPG: x265 and FFmpeg's HEVC decoder through PyAV."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vcm.codecs.base import ArrayCodec, check_image
from vcm.codecs.bpg.colour import ColourSpace, planes_to_rgb, rgb_to_planes
from vcm.codecs.bpg.container import BPGHeader, read_file, write_file
from vcm.codecs.bpg.hevc import PRESETS, decode_picture, encode_picture
from vcm.codecs.bpg.offsets import MAX_QP, MAX_REGIONS, Region, checked_offsets, regions
from vcm.errors import ArgumentError, BitstreamError
from vcm.types import QualityScale
from vcm.validation import check_choice

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from vcm.codecs.base import Array

CHROMA_FORMATS = {"420": 1, "422": 2, "444": 3}
QP_OFFSETS = {"rate": 2, "x265": 3, "jctvc": 0}
QP_SCALE = QualityScale("QP", low=0, high=51, higher_is_better=False, default=29)
MAX_SIDE = 16384
_NEEDED: tuple[tuple[str, Literal["r", "w"]], ...] = (("libx265", "w"), ("hevc", "r"))


class BPGCodec(ArrayCodec):
    """BPG codec that reads and writes libbpg's format without its programs.

    The encoder writes 8 bits, BT.601 full range (RGB planes if lossless), with x265 tuned for SSIM as in
    bpgenc. The decoder reads still images of 8, 9, 10 or 12 bits in every chroma format and colour space,
    except CMYK and the lossless streams of bpgenc's jctvc encoder. An alpha plane is ignored: colours are
    returned as stored, which for premultiplied alpha means over black. The format is specified in libbpg's
    `doc/bpg_spec.txt`; the coding is ITU-T H.265 intra.

    Args:
        quality: QP of `bpgenc -q`, 0 to 51; ignored if lossless.
        chroma: Chroma subsampling: "420", "422" or "444".
        preset: x265 preset, "ultrafast" to "placebo"; `bpgenc -m 8` corresponds to "veryslow".
        qp_convention: Mapping from `quality` q to the slice QP (at least 0). "rate": q − 2, the closest to
            bpgenc's file size. "x265": q − 3, as in bpgenc with its default encoder. "jctvc": q, as in
            bpgenc with its jctvc encoder.
        lossless: Whether to code losslessly; requires chroma "444".
        integrity_hash: Whether to write a hash of all other bytes (13 bytes), and to reject files without one
            when decoding. Without it, damaged image data can decode to a wrong image without an error, in
            libbpg too; truncation is always detected. An existing hash is always verified; libbpg ignores it.

    Raises:
        ArgumentError: If an argument is invalid.
    """

    name: ClassVar[str] = "bpg"
    title: ClassVar[str] = "BPG"
    suffix: ClassVar[str] = ".bpg"
    quality_scale: ClassVar[QualityScale] = QP_SCALE

    def __init__(
        self,
        quality: float = QP_SCALE.default,
        *,
        chroma: str | int = "420",
        preset: str = "veryslow",
        qp_convention: str = "rate",
        lossless: bool = False,
        integrity_hash: bool = False,
    ) -> None:
        self.quality = self.quality_scale.check(quality)
        self.chroma = check_choice("chroma", str(chroma), CHROMA_FORMATS)
        self.preset = check_choice("preset", preset, PRESETS)
        self.qp_convention = check_choice("qp_convention", qp_convention, QP_OFFSETS)
        self.lossless = check_choice("lossless", lossless, (False, True))
        self.integrity_hash = check_choice("integrity_hash", integrity_hash, (False, True))
        if lossless and self.chroma != "444":
            raise ArgumentError(
                "chroma", expected='"444" with lossless=True', got=chroma, remedy="Pass chroma='444'."
            )

    @property
    def slice_qp(self) -> int:
        """Slice QP that results from `quality` and `qp_convention`, without offsets."""
        return max(0, int(self.quality) - QP_OFFSETS[self.qp_convention])

    def with_preset_up_to(self, preset: str) -> BPGCodec:
        """Return this codec with `preset`, or unchanged if its own preset is not slower."""
        if PRESETS.index(self.preset) <= PRESETS.index(check_choice("preset", preset, PRESETS)):
            return self
        faster = copy.copy(self)
        faster.preset = preset
        return faster

    def encode(
        self, image: Tensor, offsets: Tensor | npt.NDArray[Any] | None = None, *, block: int = 32
    ) -> bytes:
        """Encode one image, optionally with QP offsets per block.

        An all-zero map gives the same bytes as None, and a constant map the same bytes as plain encoding at
        that QP. Every BPG decoder reads the stream.

        Args:
            image: RGB image (3, H, W), uint8, of any size from 1×1.
            offsets: Integer map (⌈H / block⌉, ⌈W / block⌉) in [−51, 51], added to the slice QP of each block.
                The sums are clipped to [0, 51].
            block: Block size in pixels: 16, 32 or 64.

        Raises:
            ArgumentError: If `image` is not such a tensor, the map has the wrong size or values out of range,
                or the codec is lossless and a map is given.
            CodecError: If x265 fails.
        """
        check_image(image)
        return self.encode_array(image.permute(1, 2, 0).contiguous().cpu().numpy(), offsets, block=block)

    def encode_array(
        self, pixels: Array, offsets: Tensor | npt.NDArray[Any] | None = None, *, block: int = 32
    ) -> bytes:
        """Encode RGB pixels (H, W, 3), uint8; see `encode`.

        Raises:
            ArgumentError: If a side is longer than 16384 pixels, or an argument is invalid.
            CodecError: If x265 fails.
        """
        height, width, _ = pixels.shape
        if max(height, width) > MAX_SIDE:
            raise ArgumentError(
                "image", expected=f"at most {MAX_SIDE} pixels per side for BPG", got=(height, width)
            )
        space = ColourSpace.RGB if self.lossless else ColourSpace.BT601
        chroma_format = CHROMA_FORMATS[self.chroma]
        qp = self.slice_qp
        marked: list[Region] = []
        if offsets is not None:
            qp, marked = self._block_qps(checked_offsets(offsets, height, width, block), qp)
        picture = encode_picture(
            rgb_to_planes(pixels, chroma_format, space),
            chroma_format=chroma_format,
            qp=qp,
            preset=self.preset,
            lossless=self.lossless,
            regions=marked,
            block=block,
        )
        header = BPGHeader(width, height, chroma_format, colour_space=space)
        return write_file(header, picture.parameters, picture.nals, digest=self.integrity_hash)

    def _block_qps(self, offsets: npt.NDArray[Any], qp: int) -> tuple[int, list[Region]]:
        """Return the slice QP and the regions with another QP, for a validated map."""
        if self.lossless:
            raise ArgumentError(
                "offsets", expected="None, because lossless=True has no QP", got=f"a map {offsets.shape}"
            )
        qps = (qp + offsets).clip(0, MAX_QP)
        if qps.min() == qps.max():
            return int(qps.min()), []
        found = regions(qps - qp)
        if len(found) > MAX_REGIONS:
            raise ArgumentError(
                "offsets",
                expected=f"a map with at most {MAX_REGIONS:,} rectangles of equal offsets",
                got=len(found),
                remedy="Use larger blocks or a smoother map.",
            )
        return qp, found

    def decode_array(self, data: bytes) -> Array:
        """Decode to RGB pixels (H, W, 3), uint8.

        Raises:
            BitstreamError: If `data` is not a complete BPG still image of a supported kind.
        """
        file = read_file(data)
        if self.integrity_hash and not file.has_digest:
            raise BitstreamError("BPG: the stream has no integrity hash, which integrity_hash=True requires.")
        header = file.header
        planes = decode_picture(
            file.stream,
            file.parameters,
            width=header.width,
            height=header.height,
            chroma_format=header.chroma_format,
            bit_depth=header.bit_depth,
            may_be_cut=not file.has_length,
        )
        return planes_to_rgb(
            planes,
            chroma_format=header.chroma_format,
            bit_depth=header.bit_depth,
            colour_space=header.colour_space,
            limited_range=header.limited_range,
            cosited=header.cosited,
        )

    @classmethod
    def unavailable(cls) -> str:
        """Return why this codec cannot run here; empty if it can."""
        missing = [name for name, mode in _NEEDED if not _has(name, mode)]
        return f"this build of PyAV lacks {', '.join(missing)}: pip install av" if missing else ""

    def implementation(self) -> str:
        """Return the versions of PyAV and its FFmpeg library, which determine the bytes."""
        import av

        return (
            f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}, x265"
        )


def _has(name: str, mode: Literal["r", "w"]) -> bool:
    import av

    try:
        av.Codec(name, mode)
    except av.codec.codec.UnknownCodecError:
        return False
    return True
