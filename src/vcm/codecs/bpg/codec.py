"""BPG in process: x265 and FFmpeg's HEVC decoder through PyAV."""

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
    """BPG, bit-compatible with libbpg in both directions, without its programs.

    Writing is 8 bits, BT.601 full range (RGB planes when lossless), by x265 tuned for SSIM as bpgenc does it.
    Reading takes still pictures of 8, 9, 10 or 12 bits in every chroma format and colour space, but neither
    CMYK nor what bpgenc's jctvc encoder makes when lossless. A plane of opacity is dropped, undecoded: the
    colour comes out as it is stored, which for premultiplied opacity means over black. The format is libbpg's
    `doc/bpg_spec.txt`; the coding is ITU-T H.265 intra.

    Args:
        quality: QP as `bpgenc -q` counts it, 0 to 51; without effect when lossless.
        chroma: "420", "422" or "444".
        preset: x265's preset, "ultrafast" to "placebo"; `bpgenc -m 8` is "veryslow".
        qp_convention: Which QP the slice gets for `quality` q (never below 0). "rate": q − 2, the closest to
            bpgenc's file size. "x265": q − 3, what bpgenc gives its default encoder. "jctvc": q, what bpgenc
            gives its other one.
        lossless: Whether to give back the very pixels; needs chroma "444".
        integrity_hash: Whether to write a hash of everything else into the file (13 bytes), and to refuse
            files without one when reading. Without it, damage inside the picture data can decode to a wrong
            picture in silence, in libbpg too; truncation is always noticed. Where a hash is there, it is
            always checked. libbpg skips it.

    Raises:
        ArgumentError: If an argument is not one of these.
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
        """The QP that `quality` and `qp_convention` give the slice, without offsets."""
        return max(0, int(self.quality) - QP_OFFSETS[self.qp_convention])

    def with_preset_up_to(self, preset: str) -> BPGCodec:
        """Return this codec, with `preset` where its own is slower."""
        if PRESETS.index(self.preset) <= PRESETS.index(check_choice("preset", preset, PRESETS)):
            return self
        faster = copy.copy(self)
        faster.preset = preset
        return faster

    def encode(
        self, image: Tensor, offsets: Tensor | npt.NDArray[Any] | None = None, *, block: int = 32
    ) -> bytes:
        """Encode one image, optionally with a QP of its own for each block.

        A map of zeros, or None, gives the bytes of plain encoding, and a map of one value those of plain
        encoding at that QP. Every BPG decoder reads the result.

        Args:
            image: (3, H, W) uint8 RGB, any size from 1×1.
            offsets: (rows, columns) integers from −51 to 51, ⌈H / block⌉ by ⌈W / block⌉: QP steps added to
                the slice's QP in each block. Sums beyond 0 to 51 are clipped to it.
            block: Side of a block in pixels: 16, 32 or 64.

        Raises:
            ArgumentError: If `image` is not such a tensor, the map has another size or values out of range,
                or the codec is lossless and there is a map.
            CodecError: If x265 fails.
        """
        check_image(image)
        return self.encode_array(image.permute(1, 2, 0).contiguous().cpu().numpy(), offsets, block=block)

    def encode_array(
        self, pixels: Array, offsets: Tensor | npt.NDArray[Any] | None = None, *, block: int = 32
    ) -> bytes:
        """Encode (H, W, 3) uint8 RGB pixels; see `encode`.

        Raises:
            ArgumentError: If a side is longer than 16384 pixels, or as `encode` raises it.
            CodecError: If x265 fails.
        """
        height, width, _ = pixels.shape
        if max(height, width) > MAX_SIDE:
            raise ArgumentError(
                "image", expected=f"at most {MAX_SIDE} pixels a side for BPG", got=(height, width)
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
        """The slice's QP and the regions that differ from it, for a map in range."""
        if self.lossless:
            raise ArgumentError(
                "offsets", expected="None with lossless=True, which has no QP", got=f"a map {offsets.shape}"
            )
        qps = (qp + offsets).clip(0, MAX_QP)
        if qps.min() == qps.max():
            return int(qps.min()), []
        found = regions(qps - qp)
        if len(found) > MAX_REGIONS:
            raise ArgumentError(
                "offsets",
                expected=f"a map of at most {MAX_REGIONS:,} rectangles of equal offsets",
                got=len(found),
                remedy="Use larger blocks, or a smoother map.",
            )
        return qp, found

    def decode_array(self, data: bytes) -> Array:
        """Decode to (H, W, 3) uint8 RGB pixels.

        Raises:
            BitstreamError: If `data` is not a whole BPG still picture of a kind that can be decoded.
        """
        file = read_file(data)
        if self.integrity_hash and not file.has_digest:
            raise BitstreamError(
                "BPG: the stream has no integrity hash, and integrity_hash=True asks for one."
            )
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
        """Why this codec cannot run here; empty where it can."""
        missing = [name for name, mode in _NEEDED if not _has(name, mode)]
        return f"this build of PyAV lacks {', '.join(missing)}: pip install av" if missing else ""

    def implementation(self) -> str:
        """PyAV's version and that of the FFmpeg library inside, which decide the bytes."""
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
