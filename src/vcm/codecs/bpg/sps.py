"""HEVC sequence parameters: BPG's short form, x265's SPS, and the full SPS for a decoder."""

from __future__ import annotations

from dataclasses import dataclass

from vcm.codecs.bpg.bits import BitReader, BitWriter, add_emulation_prevention, remove_emulation_prevention
from vcm.errors import BitstreamError, CodecError

VPS = bytes.fromhex("40010c01ffff0408000003009000000300000300fff024")
"""Video parameter set for any still image; BPG omits it and FFmpeg requires it."""

_PROFILE_RANGE_EXTENSIONS = 4
_RANGE_EXTENSION_FLAGS = (
    "transform_skip_rotation", "transform_skip_context", "implicit_rdpcm", "explicit_rdpcm",
    "extended_precision", "intra_smoothing_disabled",
    "high_precision_offsets", "persistent_rice", "cabac_bypass_alignment",
)  # fmt: skip
_UNSUPPORTED_FLAGS = ("implicit_rdpcm", "extended_precision", "cabac_bypass_alignment")


@dataclass(frozen=True)
class PCM:
    """Limits of PCM blocks, which store samples without transform or prediction.

    Attributes:
        bit_depth_luma: 1 to 16.
        bit_depth_chroma: 1 to 16.
        log2_min_size: log2 of the smallest PCM block size in pixels.
        log2_diff_size: log2 of the ratio between the largest and the smallest size.
        loop_filter_disabled: Whether deblocking skips PCM blocks.
    """

    bit_depth_luma: int
    bit_depth_chroma: int
    log2_min_size: int
    log2_diff_size: int
    loop_filter_disabled: bool


@dataclass(frozen=True)
class CodingParameters:
    """Coding parameters in BPG's `hevc_header`, named as in ITU-T H.265 section 7.4.3.2.

    Attributes:
        log2_min_cb: log2 of the smallest coding block size in pixels.
        log2_diff_cb: log2 of the ratio between the largest and the smallest coding block.
        log2_min_tb: log2 of the smallest transform block size in pixels.
        log2_diff_tb: log2 of the ratio between the largest and the smallest transform block.
        max_depth_intra: Maximum transform hierarchy depth of intra blocks.
        sample_adaptive_offset: Whether the sample adaptive offset filter is enabled.
        pcm: Limits of PCM blocks; None if PCM is disabled.
        strong_intra_smoothing: Whether strong intra smoothing is enabled.
        range_extension: The nine flags of the range extension; None without it.
    """

    log2_min_cb: int
    log2_diff_cb: int
    log2_min_tb: int
    log2_diff_tb: int
    max_depth_intra: int
    sample_adaptive_offset: bool
    pcm: PCM | None
    strong_intra_smoothing: bool
    range_extension: tuple[bool, ...] | None

    @property
    def min_cb(self) -> int:
        """Size of the smallest coding block in pixels; HEVC codes a whole number of them."""
        return 1 << self.log2_min_cb

    @property
    def ctb(self) -> int:
        """Size of a coding tree block in pixels."""
        return 1 << (self.log2_min_cb + self.log2_diff_cb)

    def check(self, bit_depth: int) -> None:
        """Check the ranges of ITU-T H.265 section 7.4.3.2.

        Raises:
            BitstreamError: If a value is out of range, or the stream uses a tool that the decoder gets wrong.
        """
        ctb, max_tb = self.log2_min_cb + self.log2_diff_cb, self.log2_min_tb + self.log2_diff_tb
        if not 4 <= ctb <= 6:
            raise BitstreamError(f"BPG: the coding tree block's log2 size must be 4 to 6; got {ctb}.")
        if self.log2_min_tb >= self.log2_min_cb or max_tb > min(ctb, 5):
            raise BitstreamError(
                f"BPG: transform blocks of log2 size {self.log2_min_tb} to {max_tb} do not fit "
                f"coding blocks of {self.log2_min_cb} to {ctb}."
            )
        if self.max_depth_intra > ctb - self.log2_min_tb:
            raise BitstreamError(f"BPG: the transform hierarchy is too deep: {self.max_depth_intra}.")
        pcm = self.pcm
        if pcm is not None:
            largest = pcm.log2_min_size + pcm.log2_diff_size
            if max(pcm.bit_depth_luma, pcm.bit_depth_chroma) > bit_depth:
                raise BitstreamError("BPG: PCM samples have more bits than the image.")
            if not min(self.log2_min_cb, 5) <= pcm.log2_min_size <= largest <= min(ctb, 5):
                raise BitstreamError(
                    f"BPG: PCM blocks of log2 size {pcm.log2_min_size} to {largest} do not fit."
                )
        for name, on in zip(_RANGE_EXTENSION_FLAGS, self.range_extension or (), strict=False):
            if on and name in _UNSUPPORTED_FLAGS:
                raise BitstreamError(f"BPG: the stream uses HEVC's {name}, which is not supported.")

    @classmethod
    def from_bpg(cls, data: bytes) -> CodingParameters:
        """Parse a `hevc_header`, without its length field.

        Raises:
            BitstreamError: If it is too short or too long.
        """
        bits = BitReader(data)
        log2_min_cb, log2_diff_cb = bits.ue() + 3, bits.ue()
        log2_min_tb, log2_diff_tb = bits.ue() + 2, bits.ue()
        depth, sao, pcm, strong = bits.ue(), bits.flag(), _read_pcm(bits), bits.flag()
        extension = _read_range_extension(bits) if bits.flag() else None
        bits.expect_padding()
        return cls(log2_min_cb, log2_diff_cb, log2_min_tb, log2_diff_tb, depth, sao, pcm, strong, extension)

    def to_bpg(self) -> bytes:
        """Return a `hevc_header`, without its length field."""
        bits = BitWriter()
        self._write_block_sizes(bits)
        bits.ue(self.max_depth_intra).u(self.sample_adaptive_offset, 1)
        self._write_pcm(bits)
        bits.u(self.strong_intra_smoothing, 1)
        self._write_range_extension(bits)
        return bits.to_bytes()

    def to_sps(self, *, width: int, height: int, chroma_format: int, bit_depth: int) -> bytes:
        """Return a complete SPS NAL unit (ITU-T H.265 section 7.3.2.2) without start code.

        Args:
            width: Image width in pixels; the SPS contains it rounded up to whole coding blocks, without a
                cropping window.
            height: Image height in pixels, treated in the same way.
            chroma_format: 0 gray, 1 4:2:0, 2 4:2:2, 3 4:4:4.
            bit_depth: Bits per sample, for luma and chroma.
        """
        size = self.min_cb
        bits = BitWriter()
        bits.u(0, 4).u(0, 3).u(1, 1)  # VPS 0, one layer
        bits.u(_PROFILE_RANGE_EXTENSIONS, 8).u(1 << 31 - _PROFILE_RANGE_EXTENSIONS, 32)
        bits.u(0b1001, 4).u(0, 44).u(255, 8)  # progressive frames, any level
        bits.ue(0).ue(chroma_format)
        if chroma_format == 3:
            bits.u(0, 1)
        bits.ue(-(-width // size) * size).ue(-(-height // size) * size).u(0, 1)
        bits.ue(bit_depth - 8).ue(bit_depth - 8).ue(4)
        bits.u(1, 1).ue(0).ue(0).ue(0)  # a decoded picture buffer of size one
        self._write_block_sizes(bits)
        bits.ue(self.max_depth_intra).ue(self.max_depth_intra)
        bits.u(0, 1).u(1, 1).u(self.sample_adaptive_offset, 1)
        self._write_pcm(bits)
        bits.ue(0).u(0, 1).u(1, 1).u(self.strong_intra_smoothing, 1).u(0, 1)
        self._write_range_extension(bits)
        bits.u(1, 1)
        return b"\x42\x01" + add_emulation_prevention(bits.to_bytes())

    def _write_block_sizes(self, bits: BitWriter) -> None:
        bits.ue(self.log2_min_cb - 3).ue(self.log2_diff_cb).ue(self.log2_min_tb - 2).ue(self.log2_diff_tb)

    def _write_pcm(self, bits: BitWriter) -> None:
        bits.u(self.pcm is not None, 1)
        if self.pcm is not None:
            bits.u(self.pcm.bit_depth_luma - 1, 4).u(self.pcm.bit_depth_chroma - 1, 4)
            bits.ue(self.pcm.log2_min_size - 3).ue(self.pcm.log2_diff_size).u(
                self.pcm.loop_filter_disabled, 1
            )

    def _write_range_extension(self, bits: BitWriter) -> None:
        bits.u(self.range_extension is not None, 1)
        if self.range_extension is not None:
            bits.u(1, 1).u(0, 7)
            for on in self.range_extension:
                bits.u(on, 1)


def _read_pcm(bits: BitReader) -> PCM | None:
    if not bits.flag():
        return None
    luma, chroma = bits.u(4) + 1, bits.u(4) + 1
    return PCM(luma, chroma, bits.ue() + 3, bits.ue(), bits.flag())


def _read_range_extension(bits: BitReader) -> tuple[bool, ...] | None:
    present, others = bits.flag(), bits.u(7)
    if others:
        raise BitstreamError("BPG: the stream uses HEVC extensions other than the range extension.")
    return tuple(bits.flag() for _ in _RANGE_EXTENSION_FLAGS) if present else None


def read_encoder_sps(nal: bytes) -> CodingParameters:
    """Parse the SPS NAL unit that x265 wrote (ITU-T H.265 section 7.3.2.2).

    Raises:
        CodecError: If it uses features that a BPG file cannot represent.
    """
    try:
        return _parse_sps(BitReader(remove_emulation_prevention(nal[2:])))
    except BitstreamError as error:
        raise CodecError(f"x265 wrote an SPS that cannot be parsed: {error}") from error


def _parse_sps(bits: BitReader) -> CodingParameters:
    bits.u(8 + 88 + 8)  # ids, profile, level
    bits.ue()
    if bits.ue() == 3:
        bits.flag()
    bits.ue(), bits.ue()  # width, height
    if bits.flag():
        bits.ue(), bits.ue(), bits.ue(), bits.ue()  # conformance window
    bits.ue(), bits.ue(), bits.ue(), bits.flag()  # bit depths, POC bits, sub-layer ordering
    bits.ue(), bits.ue(), bits.ue()
    log2_min_cb, log2_diff_cb = bits.ue() + 3, bits.ue()
    log2_min_tb, log2_diff_tb = bits.ue() + 2, bits.ue()
    bits.ue()
    depth, scaling_lists, _amp, sao = bits.ue(), bits.flag(), bits.flag(), bits.flag()
    if scaling_lists:
        raise CodecError("x265 used scaling lists, which BPG cannot represent.")
    pcm, num_ref_sets, long_term = _read_pcm(bits), bits.ue(), bits.flag()
    if num_ref_sets or long_term:
        raise CodecError("x265 wrote reference picture sets for a still image.")
    bits.flag()
    strong = bits.flag()
    if bits.flag():
        _skip_vui(bits)
    extension = _read_range_extension(bits) if bits.flag() else None
    return CodingParameters(
        log2_min_cb, log2_diff_cb, log2_min_tb, log2_diff_tb, depth, sao, pcm, strong, extension
    )


def _skip_vui(bits: BitReader) -> None:
    """Skip the video usability information (ITU-T H.265 section E.2.1), which BPG does not store."""
    if bits.flag() and bits.u(8) == 255:  # aspect ratio
        bits.u(32)
    if bits.flag():  # overscan
        bits.flag()
    if bits.flag():  # video signal type
        bits.u(4)
        if bits.flag():
            bits.u(24)
    if bits.flag():  # chroma location
        bits.ue(), bits.ue()
    bits.u(3)
    if bits.flag():
        raise CodecError("x265 wrote a display window.")
    if bits.flag():  # timing
        bits.u(64)
        if bits.flag():
            bits.ue()
        if bits.flag():
            raise CodecError("x265 wrote hypothetical reference decoder parameters.")
    if bits.flag():
        raise CodecError("x265 wrote bitstream restrictions.")
