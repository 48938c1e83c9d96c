"""Colour conversion and chroma resampling, bit-exact with libbpg.

Coefficients: ITU-R BT.601, BT.709 and BT.2020 in fixed point; b is the bit depth. The arithmetic is int32
    (int64
if a sum does not fit 32 bits). Bands of rows are processed one after another, so that little memory is needed
in addition to the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[Any]
    Pixels: TypeAlias = npt.NDArray[np.uint8]

_DOWN_TAPS = (2, -4, -8, 17, 57, 57, 17, -8, -4, 2)  # /128, from -4 to +5
_UP_TAPS = (2, -6, 18, 57, -10, 4, -1)  # /64, from -3 to +3; odd outputs take them reversed
_UP_HALF_TAPS = (-1, 4, -11, 40, 40, -11, 4, -1)  # /64, from -3 to +4: between two samples
_BEFORE_DOWN, _AFTER_DOWN = 4, 4  # context rows or columns of the downsampling filter, for an even length
_BEFORE_UP, _AFTER_UP = 3, 4  # context rows or columns of the upsampling filter
_BAND_PIXELS = 1 << 16  # fits a processor's cache
_MIN_BAND_ROWS = 32  # even; neighbouring bands share some chroma rows


class ColourSpace(IntEnum):
    """BPG's `color_space`."""

    BT601 = 0
    RGB = 1
    YCGCO = 2
    BT709 = 3
    BT2020 = 4


_LUMA_WEIGHTS = {
    ColourSpace.BT601: (0.299, 0.114),
    ColourSpace.BT709: (0.2126, 0.0722),
    ColourSpace.BT2020: (0.2627, 0.0593),
}
"""k_r and k_b."""


def rgb_to_planes(pixels: Pixels, chroma_format: int, colour_space: ColourSpace) -> list[Array]:
    """Convert RGB pixels to three full-range uint8 planes.

    Args:
        pixels: RGB pixels (H, W, 3), uint8.
        chroma_format: 1 4:2:0, 2 4:2:2, 3 4:4:4.
        colour_space: BT601, or RGB (planes G, B, R) with 4:4:4 only.
    """
    import numpy as np

    if colour_space is ColourSpace.RGB:
        return [pixels[:, :, channel] for channel in (1, 2, 0)]
    height, width, _ = pixels.shape
    size = (
        -(-height // 2) if chroma_format == 1 else height,
        -(-width // 2) if chroma_format < 3 else width,
    )
    planes: list[Array] = [np.empty(shape, np.uint8) for shape in ((height, width), size, size)]
    for top, bottom in _bands(height, width):
        if chroma_format == 1:
            out = slice(top // 2, -(-bottom // 2))
            rows = _rows(pixels, top - _BEFORE_DOWN, 2 * out.stop + _AFTER_DOWN)
            own = slice(_BEFORE_DOWN, _BEFORE_DOWN + bottom - top)
        else:
            out, rows, own = slice(top, bottom), pixels[top:bottom], slice(None)
        channels = [rows[:, :, channel].astype(np.int32) for channel in range(3)]
        luma, *weights = _rgb_weights(colour_space)
        planes[0][top:bottom] = _weigh([channel[own] for channel in channels], luma, 0)
        for plane, row in zip(planes[1:], weights, strict=True):
            chroma = _weigh(channels, row, 128)
            if chroma_format == 1:
                # In 4:2:0, the horizontal intermediate is neither clipped nor rounded to 8 bits.
                chroma = _shift(_down(_shift(_down(_widen(chroma)), 1), axis=0), 13)
                np.clip(chroma, 0, 255, out=chroma)
            elif chroma_format == 2:
                chroma = _shift(_down(_widen(chroma)), 7)
                np.clip(chroma, 0, 255, out=chroma)
            plane[out] = chroma
    return planes


def _bands(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield (first, last + 1) row of each band; the first is even."""
    rows = max(_MIN_BAND_ROWS, _BAND_PIXELS // width & ~1)
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _rows(plane: Array, start: int, stop: int) -> Array:
    """Copy some rows; rows outside the plane repeat the first or last row."""
    import numpy as np

    rows: Array = plane[np.arange(start, stop).clip(0, len(plane) - 1)]
    return rows


def _shift(plane: Array, bits: int) -> Array:
    """Divide by 2^bits, rounding, in place."""
    plane += 1 << (bits - 1)
    plane >>= bits
    return plane


def _rgb_weights(colour_space: ColourSpace) -> list[tuple[float, float, float]]:
    """Return the weights of R, G and B in Y, Cb and Cr."""
    k_r, k_b = _LUMA_WEIGHTS[colour_space]
    k_g = 1 - k_r - k_b
    return [
        (k_r, k_g, k_b),
        (-0.5 * k_r / (1 - k_b), -0.5 * k_g / (1 - k_b), 0.5),
        (0.5, -0.5 * k_g / (1 - k_r), -0.5 * k_b / (1 - k_r)),
    ]


def _weigh(channels: Sequence[Array], weights: Sequence[float], offset: int) -> Array:
    """Return the weighted sum of int32 R, G and B plus `offset`, rounded and clipped to 8 bits."""
    import numpy as np

    total: Array = channels[0] * np.int32(round(weights[0] * (1 << 23)))
    for channel, weight in zip(channels[1:], weights[1:], strict=True):
        total += channel * np.int32(round(weight * (1 << 23)))
    _shift(total, 23)
    total += offset
    return np.clip(total, 0, 255, out=total)


def _widen(plane: Array) -> Array:
    """Pad columns by edge replication for `_down`."""
    import numpy as np

    after = _AFTER_DOWN + plane.shape[1] % 2
    return np.pad(plane, ((0, 0), (_BEFORE_DOWN, after)), mode="edge")


def _down(plane: Array, *, axis: int = 1) -> Array:
    """Halve one axis with the 10-tap filter, scaled by 128; consumes the padding."""
    import numpy as np

    phases = [np.ascontiguousarray(plane[p::2] if axis == 0 else plane[:, p::2]) for p in (0, 1)]
    half = phases[0].shape[axis] - 4
    total: Array = np.zeros(phases[0][_window(axis, 0, half)].shape, np.int32)
    for tap in range(5):  # the filter is symmetric
        first, last = (phases[i % 2][_window(axis, i // 2, half)] for i in (tap, 9 - tap))
        total += (first + last) * np.int32(_DOWN_TAPS[tap])
    return total


def _window(axis: int, start: int, length: int) -> tuple[slice, ...]:
    window = slice(start, start + length)
    return (window,) if axis == 0 else (slice(None), window)


def planes_to_rgb(
    planes: Sequence[Array],
    *,
    chroma_format: int,
    bit_depth: int = 8,
    colour_space: ColourSpace = ColourSpace.BT601,
    limited_range: bool = False,
    cosited: bool = False,
) -> Pixels:
    """Convert planes to RGB pixels (H, W, 3), uint8.

    Args:
        planes: One plane (gray) or three; subsampled chroma has ⌈W/2⌉ columns and ⌈H/2⌉ rows.
        chroma_format: 0 gray, 1 4:2:0, 2 4:2:2, 3 4:4:4.
        bit_depth: Bit depth b of the planes.
        colour_space: Colour space of the planes; RGB has G, B, R and YCGCO has Y, Cg, Co.
        limited_range: Whether luma spans 16–235 and chroma 16–240 (times 2^(b−8)).
        cosited: Whether subsampled chroma is sited on even columns (MPEG-2) rather than between columns
            (JPEG).
    """
    import numpy as np

    height, width = planes[0].shape
    rgb = np.empty((height, width, 3), np.uint8)
    for top, bottom in _bands(height, width):
        band = [planes[0][top:bottom]]
        for plane in planes[1:]:
            if chroma_format == 1:
                rows = _rows(plane, top // 2 - _BEFORE_UP, -(-bottom // 2) + _AFTER_UP)
            else:
                rows = plane[top:bottom]
            band.append(_upsample(rows, (bottom - top, width), chroma_format, bit_depth, cosited))
        _fill(rgb[top:bottom], band, bit_depth, colour_space, limited_range)
    return rgb


def _fill(
    out: Pixels, planes: Sequence[Array], bit_depth: int, colour_space: ColourSpace, limited_range: bool
) -> None:
    """Convert planes of equal size to RGB pixels in `out`, (H, W, 3), uint8."""
    import numpy as np

    wide: Any = np.int32 if bit_depth == 8 and not limited_range else np.int64
    scale = 255 * (1 << 22)
    one = round(scale / ((219 << bit_depth - 8) if limited_range else (1 << bit_depth) - 1))
    offset = (1 << 21) - (one * (16 << bit_depth - 8) if limited_range else 0)

    def put(channel: int, total: Array) -> None:
        total >>= 22
        out[:, :, channel] = np.clip(total, 0, 255, out=total)

    if colour_space is ColourSpace.RGB or len(planes) == 1:
        plain = bit_depth == 8 and not limited_range
        for channel, index in enumerate((2, 0, 1) if len(planes) == 3 else (0, 0, 0)):
            if plain:
                out[:, :, channel] = planes[index]
            else:
                put(channel, planes[index].astype(wide) * one + offset)
        return

    luma = planes[0].astype(wide) * wide(one)
    luma += wide(offset)
    center = 1 << (bit_depth - 1)
    first, second = (np.subtract(plane, center, dtype=wide) for plane in planes[1:])
    if colour_space is ColourSpace.YCGCO:  # libbpg scales Cg and Co like luma, even in the limited range
        first *= wide(one)
        second *= wide(one)
        put(1, luma + first)
        luma -= first
        put(0, luma + second)
        luma -= second
        put(2, luma)
        return
    per_chroma = scale / ((224 << bit_depth - 8) if limited_range else (1 << bit_depth) - 1)
    k_r, k_b = _LUMA_WEIGHTS[colour_space]
    k_g = 1 - k_r - k_b
    red, blue = 2 * (1 - k_r), 2 * (1 - k_b)
    put(0, second * wide(round(red * per_chroma)) + luma)
    put(2, first * wide(round(blue * per_chroma)) + luma)
    first *= wide(round(blue * k_b / k_g * per_chroma))
    luma -= first
    second *= wide(round(red * k_r / k_g * per_chroma))
    luma -= second
    put(1, luma)


def _upsample(
    plane: Array, size: tuple[int, int], chroma_format: int, bit_depth: int, cosited: bool
) -> Array:
    """Upsample a band of one chroma plane to `size` (height, width); for 4:2:0 it includes context rows."""
    import numpy as np

    height, width = size
    if chroma_format == 3:
        return plane
    chroma = plane.astype(np.int32)
    shift = 6
    if chroma_format == 1:
        chroma = _up(chroma, height, axis=0)
        if bit_depth > 8:
            chroma = _shift(chroma, bit_depth - 8)
        shift = 20 - bit_depth
    chroma = np.pad(chroma, ((0, 0), (_BEFORE_UP, _AFTER_UP)), mode="edge")
    chroma = _shift(_up(chroma, width, axis=1, cosited=cosited), shift)
    return np.clip(chroma, 0, (1 << bit_depth) - 1, out=chroma)


def _up(plane: Array, size: int, *, axis: int, cosited: bool = False) -> Array:
    """Double one axis to `size` samples, scaled by 64; consumes the padding."""
    import numpy as np

    length = plane.shape[axis] - _BEFORE_UP - _AFTER_UP
    inner = plane[_window(axis, 0, length)]
    shape = (2 * length, plane.shape[1]) if axis == 0 else (plane.shape[0], 2 * length)
    out = np.empty(shape, np.int32)
    phases = ((0, 0, 0, 64), _UP_HALF_TAPS) if cosited else (_UP_TAPS, _UP_TAPS[::-1])
    for parity, taps in enumerate(phases):
        total = np.zeros(inner.shape, np.int32)
        for start, tap in enumerate(taps):
            if tap:
                total += plane[_window(axis, start, length)] * np.int32(tap)
        out[(slice(parity, None, 2),) if axis == 0 else (slice(None), slice(parity, None, 2))] = total
    return out[_window(axis, 0, size)]
