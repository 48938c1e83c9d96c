"""Hyper-decoder in exact integer arithmetic, for equal table indexes on every device.

An entropy decoder that is off by one table index loses the rest of its stream. Floating-point sums depend on
their order, and so on device, thread count and library; sums of integers do not. Here every weight and
activation is an integer held as float64, small enough that each product and each partial sum stays below
2^53, where float64 is exact; the only other operations are scaling by powers of two and rounding down.
After Ballé, Johnston, Minnen, Integer Networks for Data Compression with Latent-Variable Models, ICLR 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.nn.tiling import tiles

FRACTION_BITS = 12
"""Activations are multiples of 2^-12."""
ACTIVATION_LIMIT = float(1 << 23)
"""Activations are clipped to ±2^23 · 2^-12 = ±2048."""
WEIGHT_LIMIT = (1 << 15) - 1
MAX_WEIGHT_SHIFT = 24
BIAS_LIMIT = float(1 << 50)
_SLOPE_BITS = 16
_SLOPE = round(0.01 * (1 << _SLOPE_BITS))  # LeakyReLU's
_EXACT = float(1 << 53)
TILE = 16
"""Side of a tile in places of z, 1024 pixels. Sums are exact, so tiles change nothing but memory."""
_HALO = 2  # an output depends on less than two places of z around its own
_SCALE = 4


class IntegerConvTranspose2d(nn.Module):
    """Transposed convolution of integers; zero until `copy_from`.

    Each output channel has weights w·2^k of 16 bits, with its own k, as large as fits. They are int16 in
    state dicts and int32 in memory: DDP broadcasts buffers, and neither gloo nor NCCL sends int16.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Side of the kernel, odd.
        stride: Upsampling factor.

    Raises:
        ArgumentError: If a sum over all channels could exceed 2^53.
    """

    weight: Tensor
    bias: Tensor
    shift: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        taps = math.ceil(kernel_size / stride) ** 2
        most = int((_EXACT - BIAS_LIMIT) / (ACTIVATION_LIMIT * WEIGHT_LIMIT * taps))
        if in_channels > most:
            raise ArgumentError(
                "in_channels", expected=f"at most {most}, for sums to be exact", got=in_channels
            )
        shape = (in_channels, out_channels, kernel_size, kernel_size)
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("bias", torch.zeros(out_channels, dtype=torch.int64))
        self.register_buffer("shift", torch.zeros(out_channels, dtype=torch.uint8))

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"].to(torch.int16)

    @torch.no_grad()
    def copy_from(self, weight: Tensor, bias: Tensor) -> None:
        """Quantize floating-point weights; the result does not depend on the device.

        Args:
            weight: (in_channels, out_channels, k, k).
            bias: (out_channels,).

        Raises:
            ArgumentError: If a value is not finite.
        """
        for name, values in (("weight", weight), ("bias", bias)):
            if not values.isfinite().all():
                raise ArgumentError(name, expected="finite", got="NaN or infinite values")
        exact = weight.double()
        largest = exact.abs().amax(dim=(0, 2, 3))
        _, exponent = torch.frexp(largest)  # largest < 2^exponent, so largest · 2^(15 - exponent) < 2^15
        shift = torch.where(largest > 0, 15 - exponent, 0).clamp(0, MAX_WEIGHT_SHIFT)
        power = _powers_of_two(shift)
        scaled = (exact * power[:, None, None]).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        offset = (bias.double() * power * (1 << FRACTION_BITS)).round().clamp(-BIAS_LIMIT, BIAS_LIMIT)
        self.weight.copy_(scaled)
        self.bias.copy_(offset)
        self.shift.copy_(shift)

    def check(self) -> None:
        """Check that sums are exact with the buffers as they are.

        Raises:
            ArgumentError: If a buffer is out of bounds.
        """
        _check_bounds("weight", self.weight, -WEIGHT_LIMIT, WEIGHT_LIMIT)
        _check_bounds("bias", self.bias, -int(BIAS_LIMIT), int(BIAS_LIMIT))
        _check_bounds("shift", self.shift, 0, MAX_WEIGHT_SHIFT)

    def forward(self, x: Tensor) -> Tensor:
        """Run on activations.

        Args:
            x: (N, in_channels, h, w) float64, integers within ±2^23.

        Returns:
            (N, out_channels, stride·h, stride·w) float64, integers within ±2^23.
        """
        height, width = x.shape[-2:]
        # Products and sums, nothing else: F.conv_transpose2d may go through a Fourier or Winograd transform.
        columns = self.weight.double().flatten(1).T @ x.flatten(2)
        sums = F.fold(
            columns,
            (height * self.stride, width * self.stride),
            self.kernel_size,
            padding=self.kernel_size // 2,
            stride=self.stride,
        )
        sums = sums + self.bias.double()[:, None, None]
        rounded = torch.floor(sums / _powers_of_two(self.shift)[:, None, None] + 0.5)
        return rounded.clamp(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)


class IntegerHyperSynthesis(nn.Module):
    """h_s of one width in exact arithmetic: symbols of z to table indexes and means of y.

    ```
    z symbols ─► + median ─► deconv 5×5/2 ─► LeakyReLU ─► deconv 5×5/2 ─► LeakyReLU ─► deconv 3×3/1
                                                      indexes ◄─ > thresholds? ◄─┬─ scales ◄────┤
                                                                                 └─ means ◄─────┘
    ```

    The last layer has channels for scales alone, or alternating for scales and means.

    Its integer buffers are part of checkpoints, and do not change when the network is cast to another
    precision.

    Args:
        width: Channels of z and between the layers.
        latent: Channels of y.
        num_scales: Number of entries of the scale table.
        means: Whether it also predicts means.
    """

    medians: Tensor
    thresholds: Tensor

    def __init__(self, width: int, latent: int, num_scales: int, *, means: bool = False) -> None:
        super().__init__()
        self.latent, self.means = latent, means
        self.deconvs = nn.ModuleList(
            IntegerConvTranspose2d(width, after, kernel, stride)
            for after, kernel, stride in ((width, 5, 2), (width, 5, 2), (latent * (1 + means), 3, 1))
        )
        self.register_buffer("medians", torch.zeros(width, dtype=torch.int64))
        self.register_buffer("thresholds", torch.zeros(num_scales - 1, dtype=torch.int64))

    @torch.no_grad()
    def copy_from(
        self, layers: Sequence[tuple[Tensor, Tensor]], medians: Tensor, scale_table: Tensor
    ) -> None:
        """Quantize a floating-point h_s.

        Args:
            layers: Weight and bias of each transposed convolution.
            medians: Medians of z's entropy bottleneck, (width,).
            scale_table: (num_scales,) ascending standard deviations; index i stands for scales above
                `scale_table[i - 1]`, up to `scale_table[i]`.

        Raises:
            ArgumentError: If a weight is not finite.
        """
        for deconv, (weight, bias) in zip(self.deconvs, layers, strict=True):
            assert isinstance(deconv, IntegerConvTranspose2d)
            deconv.copy_from(weight, bias)
        exact = (medians.double() * (1 << FRACTION_BITS)).round()
        self.medians.copy_(exact.clamp(-BIAS_LIMIT, BIAS_LIMIT))
        self.thresholds.copy_((scale_table[:-1].double() * (1 << FRACTION_BITS)).floor())

    def check(self) -> None:
        """Check that the buffers can come from `copy_from`.

        Raises:
            ArgumentError: If a buffer is out of bounds, or the thresholds do not ascend.
        """
        for deconv in self.deconvs:
            assert isinstance(deconv, IntegerConvTranspose2d)
            deconv.check()
        _check_bounds("medians", self.medians, -int(BIAS_LIMIT), int(BIAS_LIMIT))
        _check_bounds("thresholds", self.thresholds, 0, int(ACTIVATION_LIMIT))
        if (self.thresholds.diff() < 0).any():
            raise ArgumentError("the hyper-decoder's thresholds", expected="ascending", got="others")

    @torch.no_grad()
    def forward(
        self, z_symbols: Tensor, watch: Callable[[Tensor], None] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Table indexes and means for y.

        Args:
            z_symbols: (width, h, w) integers: round(z − median).
            watch: Callback that receives the indexes of each tile, except tiles at the right and bottom edge,
                parts of which may lie outside the image; it may raise an exception to stop.

        Returns:
            Table indexes, (latent, 4·h, 4·w) int32 from 0 to num_scales − 1, and means of the same shape,
            float32 and exact; None without means.
        """
        height, width = z_symbols.shape[-2:]
        size = (self.latent, _SCALE * height, _SCALE * width)
        indexes = torch.empty(size, dtype=torch.int32, device=z_symbols.device)
        means = torch.empty(size, device=z_symbols.device) if self.means else None
        for source, inner, target in tiles(height, width, tile=TILE, halo=_HALO, scale=_SCALE):
            scales, mean = split_parameters(self._run(z_symbols[(..., *source)])[(..., *inner)], self.means)
            chosen = torch.bucketize(scales.contiguous(), self.thresholds.double(), out_int32=True)
            indexes[(..., *target)] = chosen
            if watch is not None and target[0].stop < size[1] and target[1].stop < size[2]:
                watch(chosen)
            if means is not None and mean is not None:
                means[(..., *target)] = (mean / (1 << FRACTION_BITS)).float()
        return indexes, means

    def _run(self, z_symbols: Tensor) -> Tensor:
        """Run all layers on (width, h, w); return (outputs, 4·h, 4·w) float64."""
        x = z_symbols.double()[None] * (1 << FRACTION_BITS) + self.medians.double()[:, None, None]
        x = x.clamp(-ACTIVATION_LIMIT, ACTIVATION_LIMIT)
        for number, deconv in enumerate(self.deconvs):
            x = deconv(x if number == 0 else _leaky_relu(x))
        return x[0]


def split_parameters(x: Tensor, means: bool) -> tuple[Tensor, Tensor | None]:
    """Split the output of h_s, (…, C, h, w), into scales and means, which alternate; None without means."""
    return (x[..., 0::2, :, :], x[..., 1::2, :, :]) if means else (x, None)


def _check_bounds(name: str, values: Tensor, low: int, high: int) -> None:
    least, most = (int(value) for value in values.aminmax())
    if not low <= least <= most <= high:
        raise ArgumentError(
            f"the hyper-decoder's {name}", expected=f"within {low} and {high}", got=f"{least} to {most}"
        )


def _powers_of_two(exponents: Tensor) -> Tensor:
    """Compute 2^exponent in float64 by integer shifts, since pow() may be inexact."""
    return torch.ones_like(exponents, dtype=torch.int64).bitwise_left_shift(exponents.long()).double()


def _leaky_relu(x: Tensor) -> Tensor:
    below = torch.floor(x * _SLOPE / (1 << _SLOPE_BITS) + 0.5)
    return torch.where(x < 0, below, x)
