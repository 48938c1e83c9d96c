"""Colour conversion and chroma resampling as libbpg does them, to the bit.

Coefficients: ITU-R BT.601, BT.709 and BT.2020 in fixed point; b is the bit depth. Everything here works on
whole planes in int32 (int64 where 32 bits do not hold the sum).
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Turn (H, W, 3) uint8 RGB into three uint8 planes, full range.

    Args:
        pixels: (H, W, 3) uint8 RGB.
        chroma_format: 1 4:2:0, 2 4:2:2, 3 4:4:4.
        colour_space: BT601, or RGB (planes G, B, R) with 4:4:4.
    """
    import numpy as np

    if colour_space is ColourSpace.RGB:
        return [pixels[:, :, channel] for channel in (1, 2, 0)]
    k_r, k_b = _LUMA_WEIGHTS[colour_space]
    k_g = 1 - k_r - k_b
    matrix = [
        (k_r, k_g, k_b),
        (-0.5 * k_r / (1 - k_b), -0.5 * k_g / (1 - k_b), 0.5),
        (0.5, -0.5 * k_g / (1 - k_r), -0.5 * k_b / (1 - k_r)),
    ]
    channels = [pixels[:, :, channel].astype(np.int32) for channel in range(3)]
    planes = []
    for row, offset in zip(matrix, (0, 128, 128), strict=True):
        total = np.full(channels[0].shape, 1 << 22, np.int32)
        for channel, weight in zip(channels, row, strict=True):
            total += channel * np.int32(round(weight * (1 << 23)))
        total >>= 23
        total += offset
        planes.append(np.clip(total, 0, 255, out=total))
    luma, *chroma = planes
    if chroma_format == 1:
        # 4:2:0: the intermediate is neither clipped nor rounded to 8 bits.
        chroma = [_down((_down(c) + 1) >> 1, axis=0, shift=13) for c in chroma]
    elif chroma_format == 2:
        chroma = [np.clip((_down(c) + 64) >> 7, 0, 255) for c in chroma]
    return [plane.astype(np.uint8) for plane in (luma, *chroma)]


def _down(plane: Array, *, axis: int = 1, shift: int = 0) -> Array:
    """Halve one axis with the 10-tap filter; with `shift`, round, shift and clip to 8 bits."""
    import numpy as np

    size = plane.shape[axis]
    half = -(-size // 2)
    padded = np.pad(plane, [(4, 6) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
    phases = [np.ascontiguousarray(padded[p::2] if axis == 0 else padded[:, p::2]) for p in (0, 1)]
    total: Array = np.zeros(phases[0][_window(axis, 0, half)].shape, np.int32)
    for tap in range(5):  # the filter is symmetric
        first, last = (phases[i % 2][_window(axis, i // 2, half)] for i in (tap, 9 - tap))
        total += (first + last) * np.int32(_DOWN_TAPS[tap])
    if shift:
        total += 1 << (shift - 1)
        total >>= shift
        np.clip(total, 0, 255, out=total)
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
    """Turn planes into (H, W, 3) uint8 RGB.

    Args:
        planes: One plane (gray) or three; chroma of ceil(W/2), ceil(H/2) where it is halved.
        chroma_format: 0 gray, 1 4:2:0, 2 4:2:2, 3 4:4:4.
        bit_depth: b of the planes.
        colour_space: What the planes are; G, B, R for RGB and Y, Cg, Co for YCGCO.
        limited_range: Whether luma spans 16–235 and chroma 16–240 (times 2^(b−8)).
        cosited: Whether halved chroma lies on the even columns (MPEG-2) instead of between two (JPEG).
    """
    import numpy as np

    height, width = planes[0].shape
    wide: Any = np.int32 if bit_depth == 8 and not limited_range else np.int64
    scale = 255 * (1 << 22)
    one = round(scale / ((219 << bit_depth - 8) if limited_range else (1 << bit_depth) - 1))
    offset = (1 << 21) - (one * (16 << bit_depth - 8) if limited_range else 0)
    out = np.empty((height, width, 3), np.uint8)

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
        return out

    luma = planes[0].astype(wide) * wide(one)
    luma += wide(offset)
    center = 1 << (bit_depth - 1)
    first, second = (
        np.subtract(_upsample(plane, (height, width), chroma_format, bit_depth, cosited), center, dtype=wide)
        for plane in planes[1:]
    )
    if colour_space is ColourSpace.YCGCO:  # libbpg scales Cg and Co as luma, in the limited range too
        first *= wide(one)
        second *= wide(one)
        put(1, luma + first)
        luma -= first
        put(0, luma + second)
        luma -= second
        put(2, luma)
        return out
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
    return out


def _upsample(
    plane: Array, size: tuple[int, int], chroma_format: int, bit_depth: int, cosited: bool
) -> Array:
    """Bring one chroma plane to `size` (height, width), int32, clipped to b bits."""
    import numpy as np

    top = (1 << bit_depth) - 1
    height, width = size
    chroma = plane.astype(np.int32)
    if chroma_format == 3:
        return chroma
    shift = 6
    if chroma_format == 1:
        extra = bit_depth - 8
        chroma = _up(chroma, height, 0)
        if extra:
            chroma += (1 << extra) >> 1
            chroma >>= extra
        shift = 20 - bit_depth
    chroma = _up(chroma, width, 1, cosited)
    chroma += 1 << (shift - 1)
    chroma >>= shift
    return np.clip(chroma, 0, top, out=chroma)


def _up(plane: Array, size: int, axis: int, cosited: bool = False) -> Array:
    """Double one axis to `size` samples, times 64."""
    import numpy as np

    length = plane.shape[axis]
    padded = np.pad(plane, [(3, 4) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
    shape = (2 * length, plane.shape[1]) if axis == 0 else (plane.shape[0], 2 * length)
    out = np.empty(shape, np.int32)
    phases = ((0, 0, 0, 64), _UP_HALF_TAPS) if cosited else (_UP_TAPS, _UP_TAPS[::-1])
    for parity, taps in enumerate(phases):
        total = np.zeros(plane.shape, np.int32)
        for start, tap in enumerate(taps):
            if tap:
                total += padded[_window(axis, start, length)] * np.int32(tap)
        out[(slice(parity, None, 2),) if axis == 0 else (slice(None), slice(parity, None, 2))] = total
    return out[_window(axis, 0, size)]
