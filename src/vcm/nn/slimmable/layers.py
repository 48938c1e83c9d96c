"""Slimmable layers: several widths with one set of weights."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from compressai.layers import GDN
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.nn.layers import GDN_START
from vcm.validation import is_whole


def check_widths(argument: str, widths: Sequence[int]) -> tuple[int, ...]:
    """Return `widths` as a tuple if they are ascending integers of at least 1.

    Raises:
        ArgumentError: If they are not ascending integers of at least 1.
    """
    values = tuple(widths)
    if (
        not values
        or not all(is_whole(value) and value >= 1 for value in values)
        or any(after <= before for before, after in pairwise(values))
    ):
        raise ArgumentError(
            argument,
            expected="one or more channel counts, strictly ascending from 1",
            got=list(values),
            remedy="List the widths from narrow to wide, each once.",
        )
    return tuple(int(value) for value in values)


class SlimmableConv2d(nn.Conv2d):
    """Convolution whose widths use the first channels: `weight[:out, :in]`.

    ```
    (N, in_widths[i], H, W) ──► weight[:out_widths[i], :in_widths[i]] ──► (N, out_widths[i], H/s, W/s)
    ```

    Padding keeps H/s = ceil(H / stride). After Yu et al., Slimmable Neural Networks, ICLR 2019.

    Args:
        in_widths: Input channels of each width; equal entries if the input does not depend on the width.
        out_widths: Output channels of each width.
        kernel_size: Side of the kernel, odd.
        stride: Stride in pixels.
        bias: Whether to add a bias.
    """

    def __init__(
        self,
        in_widths: Sequence[int],
        out_widths: Sequence[int],
        kernel_size: int,
        *,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            max(in_widths), max(out_widths), kernel_size, stride, padding=kernel_size // 2, bias=bias
        )
        self.in_widths, self.out_widths = tuple(in_widths), tuple(out_widths)

    def sliced(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of width `index`, as views."""
        outs, ins = self.out_widths[index], self.in_widths[index]
        return self.weight[:outs, :ins], None if self.bias is None else self.bias[:outs]

    def forward(self, x: Tensor, index: int) -> Tensor:  # type: ignore[override]  # a width is part of the call
        """Run at width `index`, from 0."""
        weight, bias = self.sliced(index)
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def dense(self, index: int) -> nn.Conv2d:
        """Build a plain convolution with the weights of width `index`."""
        weight, bias = self.sliced(index)
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        plain = nn.Conv2d(
            weight.shape[1], weight.shape[0], kernel, stride, padding=kernel // 2, bias=bias is not None
        ).to(weight)
        _copy(plain, weight, bias)
        return plain


class SlimmableConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution whose widths use the first channels: `weight[:in, :out]`.

    ```
    (N, in_widths[i], H, W) ──► weight[:in_widths[i], :out_widths[i]] ──► (N, out_widths[i], s·H, s·W)
    ```

    Args:
        in_widths: Input channels of each width.
        out_widths: Output channels of each width.
        kernel_size: Side of the kernel, odd.
        stride: Upsampling factor.
    """

    def __init__(
        self, in_widths: Sequence[int], out_widths: Sequence[int], kernel_size: int, *, stride: int = 1
    ) -> None:
        super().__init__(
            max(in_widths),
            max(out_widths),
            kernel_size,
            stride,
            padding=kernel_size // 2,
            output_padding=stride - 1,
        )
        self.in_widths, self.out_widths = tuple(in_widths), tuple(out_widths)

    def sliced(self, index: int) -> tuple[Tensor, Tensor]:
        """Return weight and bias of width `index`, as views."""
        ins, outs = self.in_widths[index], self.out_widths[index]
        assert self.bias is not None
        return self.weight[:ins, :outs], self.bias[:outs]

    def forward(self, x: Tensor, index: int) -> Tensor:  # type: ignore[override]  # a width is part of the call
        """Run at width `index`, from 0."""
        weight, bias = self.sliced(index)
        return F.conv_transpose2d(x, weight, bias, self.stride, self.padding, self.output_padding)  # type: ignore[arg-type]  # torch's own tuples


_STRIP_ROWS = 32


class SwitchableGDN(nn.Module):
    """One generalized divisive normalization (Ballé et al., arXiv 1511.06281) for each width.

    Normalization depends on all channels, so that widths cannot share it.

    Args:
        widths: Channels of each width.
        inverse: Whether to invert the normalization (IGDN), as decoders do.
    """

    def __init__(self, widths: Sequence[int], *, inverse: bool = False) -> None:
        super().__init__()
        self.at = nn.ModuleList(GDN(width, inverse=inverse, gamma_init=GDN_START) for width in widths)

    def forward(self, x: Tensor, index: int) -> Tensor:
        """Normalize (N, widths[index], H, W)."""
        normalized: Tensor = self.at[index](x)
        return normalized


class DenseGDN(nn.Module):
    """GDN with precomputed parameters, for inference, tracing and export.

    ```
    y = x · (β + γ·x²)^(−1/2)
    ```

    Args:
        gdn: Trained GDN layer of CompressAI, not inverse.
    """

    beta: Tensor
    gamma: Tensor

    def __init__(self, gdn: GDN) -> None:
        super().__init__()
        with torch.no_grad():
            self.register_buffer("beta", gdn.beta_reparam(gdn.beta).clone())
            self.register_buffer("gamma", gdn.gamma_reparam(gdn.gamma)[:, :, None, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W); in place without gradients or tracing."""
        if x.requires_grad or torch.compiler.is_compiling():
            return x * F.conv2d(x * x, self.gamma, self.beta).rsqrt()
        # At these sizes new memory costs as much as the arithmetic: a few rows at a time stay in the cache.
        for rows in torch.split(x, _STRIP_ROWS, dim=2):
            rows.mul_(F.conv2d(rows * rows, self.gamma, self.beta).rsqrt_())
        return x


class DenseEncoder(nn.Module):
    """Encoder of one width in plain layers; see `MultiTaskNetwork.at_width`.

    It uses channels-last memory, which is faster on CPUs (benchmarks/slimmable_latency.py).

    ```
    x ─► g_a ─► y ─► |·| ─► h_a ─► z        (h_a only with a hyperprior)
    ```
    """

    def __init__(self, g_a: nn.Sequential, h_a: nn.Sequential | None) -> None:
        super().__init__()
        self.g_a, self.h_a = g_a, h_a
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(N, 3, H, W) in [0, 1] → (y,) or (y, z); H and W multiples of 16."""
        y = self.g_a(x.contiguous(memory_format=torch.channels_last))
        return (y,) if self.h_a is None else (y, self.h_a(torch.abs(y)))


def identity_convolution(channels: int) -> nn.Conv2d:
    """Build a depthwise 1×1 convolution that is the identity."""
    plain = nn.Conv2d(channels, channels, 1, groups=channels)
    nn.init.ones_(plain.weight)
    assert plain.bias is not None
    nn.init.zeros_(plain.bias)
    return plain


def _copy(plain: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    with torch.no_grad():
        plain.weight.copy_(weight)
        if plain.bias is not None and bias is not None:
            plain.bias.copy_(bias)
