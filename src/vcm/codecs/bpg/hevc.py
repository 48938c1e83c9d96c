"""Encode and decode a single HEVC intra picture with FFmpeg through PyAV."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from vcm.codecs.bpg.offsets import MAX_QP, Region
from vcm.codecs.bpg.sps import VPS, CodingParameters, read_encoder_sps
from vcm.errors import BitstreamError, CodecError

if TYPE_CHECKING:
    import numpy.typing as npt
    from av import VideoFrame
    from av.video.plane import VideoPlane

    Plane: TypeAlias = npt.NDArray[Any]
    """uint8 for 8 bits, uint16 above."""

PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip
PIXEL_FORMATS = ("gray", "yuv420p", "yuv422p", "yuv444p")
"""FFmpeg pixel formats, indexed by HEVC's chroma format."""

_NAL_SPS, _NAL_PPS, _NAL_SEI_SUFFIX = 33, 34, 40
_NAL_INTRA = range(16, 24)
_NAL_SLICE = range(32)
_SEI_PICTURE_HASH = 132
_START = b"\x00\x00\x00\x01"
_X265_OPTIONS = (
    "keyint=1:open-gop=0:bframes=0:b-adapt=0:scenecut=0:rc-lookahead=0:lookahead-slices=0:repeat-headers=1:"
    "annexb=1:info=0:aud=0:hrd=0:wpp=0:pools=none:frame-threads=1:log-level=none:ipratio=1.0:"
    "tu-inter-depth=1:allow-non-conformance=1"
)
_OTHER_END = bytes.fromhex("b6db6db6db6db6db6db6db6db6db6db6")
_open_lock = threading.Lock()  # x265 initializes global tables when a process opens its first encoder


@dataclass(frozen=True)
class EncodedPicture:
    """HEVC intra picture in the form that BPG stores.

    Attributes:
        parameters: Coding parameters for the file's `hevc_header`.
        nals: PPS and slices in order, without start codes.
    """

    parameters: CodingParameters
    nals: tuple[bytes, ...]


def encode_picture(
    planes: Sequence[Plane],
    *,
    chroma_format: int,
    qp: int,
    preset: str,
    lossless: bool,
    bit_depth: int = 8,
    regions: Sequence[Region] = (),
    block: int = 32,
) -> EncodedPicture:
    """Encode one HEVC intra picture with x265.

    Args:
        planes: Luma (H, W) and two chroma planes with `bit_depth` bits.
        chroma_format: 1 4:2:0, 2 4:2:2, 3 4:4:4.
        qp: Slice QP, 0 to 51.
        preset: One of `PRESETS`.
        lossless: Whether to bypass transform and quantization; `qp` is then ignored.
        bit_depth: 8, 10 or 12.
        regions: Disjoint rectangles, in blocks, with QP `qp` + offset.
        block: Block size in pixels: 16, 32 or 64.

    Raises:
        CodecError: If x265 fails or writes something that BPG cannot represent.
    """
    height, width = planes[0].shape
    # x265 rejects a height or width of 8, whatever the smallest coding block.
    unit = 16 if min(height, width) <= 8 else 8
    full_height, full_width = (-(-side // unit) * unit for side in (height, width))
    chroma_height = full_height // 2 if chroma_format == 1 else full_height
    chroma_width = full_width // 2 if chroma_format < 3 else full_width
    luma, *chroma = planes
    # x265 ignores regions at a constant QP, and if adaptive quantization has no strength at all.
    rate_control = (
        f"crf={qp}:qcomp=1:aq-mode=1:aq-strength=0.0001:cutree=0:qg-size={block}" if regions else f"qp={qp}"
    )
    options = f"{rate_control}:min-cu-size={unit}:lossless={lossless:d}:{_X265_OPTIONS}"
    if preset == "placebo" and min(full_height, full_width) < 32:
        options += ":tu-intra-depth=3"  # the default of 4 does not fit such small coding tree blocks
    stream = _run_x265(
        [_pad(luma, full_height, full_width), *(_pad(c, chroma_height, chroma_width) for c in chroma)],
        PIXEL_FORMATS[chroma_format] + ("" if bit_depth == 8 else f"{bit_depth}le"),
        preset,
        options,
        [region.scaled(block) for region in regions],
    )
    parameters, nals = None, []
    for nal in split_nals(stream):
        kind = nal[0] >> 1 & 0x3F
        if kind == _NAL_SPS:
            parameters = read_encoder_sps(nal)
        elif kind == _NAL_PPS or kind in _NAL_SLICE:
            nals.append(nal)
    if parameters is None or len(nals) < 2:
        raise CodecError(f"x265 wrote an incomplete image ({len(stream)} bytes).")
    return EncodedPicture(parameters, tuple(nals))


def _pad(plane: Plane, height: int, width: int) -> Plane:
    """Pad to `height` × `width` by replicating the last row and column."""
    import numpy as np

    return np.pad(plane, [(0, height - plane.shape[0]), (0, width - plane.shape[1])], mode="edge")


def _run_x265(
    planes: Sequence[Plane], pixel_format: str, preset: str, x265_params: str, regions: Sequence[Region]
) -> bytes:
    from fractions import Fraction

    import av

    height, width = planes[0].shape
    context = av.CodecContext.create("libx265", "w")
    context.width, context.height, context.pix_fmt = width, height, pixel_format
    context.framerate = context.time_base = Fraction(1, 1)
    context.thread_count = 1
    context.options = {"preset": preset, "tune": "ssim", "x265-params": x265_params}
    frame = av.VideoFrame(width, height, pixel_format)
    frame.pts = 0
    for target, plane in zip(frame.planes, planes, strict=True):
        _plane_view(target, plane.dtype)[:, : plane.shape[1]] = plane
    try:
        if regions:
            frame = _with_regions(frame, regions)
        with _open_lock:
            context.open()
        return b"".join(bytes(packet) for part in (frame, None) for packet in context.encode(part))
    except (av.FFmpegError, ValueError) as error:
        raise CodecError(f"x265 failed on an image of {width}x{height}: {error}") from error


def _with_regions(frame: VideoFrame, regions: Sequence[Region]) -> VideoFrame:
    """Attach regions of interest (in pixels) with libavfilter's `addroi`, because PyAV cannot set them."""
    from fractions import Fraction

    import av

    graph = av.filter.Graph()
    last = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1)
    )
    for top, left, rows, columns, offset in regions:
        roi = graph.add("addroi", f"x={left}:y={top}:w={columns}:h={rows}:qoffset={offset}/{MAX_QP}")
        last.link_to(roi)
        last = roi
    last.link_to(graph.add("buffersink"))
    graph.configure()
    graph.push(frame)
    marked = cast("VideoFrame", graph.pull())
    marked.pts = 0
    return marked


def _plane_view(plane: VideoPlane, dtype: npt.DTypeLike) -> Plane:
    """Return an (H, stride) view of an FFmpeg plane's memory."""
    import numpy as np

    view: Plane = np.frombuffer(cast("Any", plane), dtype).reshape(plane.height, -1)
    return view


def split_nals(stream: bytes) -> Iterator[bytes]:
    """Split an Annex B stream into NAL units. Start codes have 3 or 4 bytes.

    Raises:
        BitstreamError: If a unit is shorter than its two-byte header.
    """
    for part in stream.split(b"\x00\x00\x01"):
        nal = part.rstrip(b"\x00")
        if not nal:
            continue
        if len(nal) < 2:
            raise BitstreamError("BPG: the HEVC data contain a NAL unit without a header.")
        yield nal


def decode_picture(
    stream: bytes,
    parameters: CodingParameters,
    *,
    width: int,
    height: int,
    chroma_format: int,
    bit_depth: int,
    may_be_cut: bool = False,
) -> list[Plane]:
    """Decode one picture with FFmpeg and crop it to `width` × `height`.

    Args:
        stream: PPS and slices in Annex B form; units of other layers (alpha) are ignored.
        parameters: Validated coding parameters.
        width: Image width in pixels.
        height: Image height in pixels.
        chroma_format: 0 gray, 1 4:2:0, 2 4:2:2, 3 4:4:4.
        bit_depth: 8, 9, 10 or 12.
        may_be_cut: Whether the file does not state the length of `stream`. The image is then decoded twice
            with different bytes appended: if the results differ, the decoder read past the end.

    Returns:
        One or three planes, uint8 for 8 bits and uint16 above; subsampled chroma has ⌈W/2⌉ columns and ⌈H/2⌉
        rows.

    Raises:
        BitstreamError: If the stream does not contain exactly one complete picture of this kind.
    """
    # Each coding tree block of an intra picture has at least one coding block, whose prediction mode is a
    # bypass bin of one bit.
    if 8 * len(stream) < -(-width // parameters.ctb) * -(-height // parameters.ctb):
        raise BitstreamError(f"BPG: {len(stream)} bytes cannot contain an image of {width}x{height}.")
    nals = _picture_nals(stream)
    sps = parameters.to_sps(width=width, height=height, chroma_format=chroma_format, bit_depth=bit_depth)
    packet = b"".join(_START + nal for nal in (VPS, sps, *nals))
    frame = _run_decoder(packet)
    side = parameters.min_cb
    expected = (
        PIXEL_FORMATS[chroma_format] + ("" if bit_depth == 8 else f"{bit_depth}le"),
        -(-width // side) * side,
        -(-height // side) * side,
    )
    got = (frame.format.name, frame.width, frame.height)
    if got != expected:
        raise BitstreamError(f"BPG: the HEVC data contain an image of {got}, and the header says {expected}.")
    import numpy as np

    planes = _frame_planes(frame, width, height, chroma_format, bit_depth)
    if may_be_cut:
        other = _frame_planes(_run_decoder(packet + _OTHER_END), width, height, chroma_format, bit_depth)
        if not all(np.array_equal(*pair) for pair in zip(planes, other, strict=True)):
            raise BitstreamError(
                "BPG: the stream is truncated: its HEVC data continue after the end of the file."
            )
    return planes


def _frame_planes(
    frame: VideoFrame, width: int, height: int, chroma_format: int, bit_depth: int
) -> list[Plane]:
    """Return cropped views of a frame's planes."""
    import numpy as np

    dtype = np.uint8 if bit_depth == 8 else np.dtype("<u2")
    half_width = -(-width // 2) if chroma_format in (1, 2) else width
    half_height = -(-height // 2) if chroma_format == 1 else height
    luma, *chroma = (_plane_view(plane, dtype) for plane in frame.planes)
    return [luma[:height, :width], *(plane[:half_height, :half_width] for plane in chroma)]


def _picture_nals(stream: bytes) -> list[bytes]:
    """Return the base layer's NAL units: one intra picture, its PPS and its hash.

    Raises:
        BitstreamError: If there is a slice of another kind, or not exactly one picture.
    """
    nals, num_pictures = [], 0
    for nal in split_nals(stream):
        kind, layer = nal[0] >> 1 & 0x3F, (nal[0] & 1) << 5 | nal[1] >> 3
        if layer or kind in (32, _NAL_SPS):
            continue
        if kind in _NAL_SLICE:
            if kind not in _NAL_INTRA or len(nal) < 3:
                raise BitstreamError(
                    f"BPG: the HEVC data contain a NAL unit of type {kind}, which a still image cannot have."
                )
            num_pictures += nal[2] >> 7
        elif kind != _NAL_PPS and not (kind == _NAL_SEI_SUFFIX and nal[2:3] == bytes([_SEI_PICTURE_HASH])):
            continue
        nals.append(nal)
    if num_pictures != 1:
        raise BitstreamError(f"BPG: a still image must have exactly one first slice; got {num_pictures}.")
    return nals


def _run_decoder(packet: bytes) -> VideoFrame:
    import av

    context = av.CodecContext.create("hevc", "r")
    context.thread_count = 1
    context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
    try:
        frames = [*context.decode(av.Packet(packet)), *context.decode(None)]
    except (av.FFmpegError, ValueError) as error:
        raise BitstreamError(f"BPG: the HEVC data are damaged: {error}") from error
    if len(frames) != 1 or frames[0].is_corrupt:
        raise BitstreamError("BPG: the HEVC data are damaged: the decoder returned no complete image.")
    return frames[0]
