"""Learned codec as a proxy for all qualities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.layers import GDN, MaskedConv2d
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.nn.gains import ChannelGains
from vcm.nn.haar import start_as_haar
from vcm.nn.layers import GDN_START, downsampling, in_float32, pad_to_multiple, upsampling
from vcm.nn.proxy.base import Proxy, ProxyOutput
from vcm.types import Settings
from vcm.validation import is_number, is_whole

HEVC_STEPS = (2 ** ((22 - 4) / 6), 2 ** ((44 - 4) / 6))
"""HEVC's quantizer steps at QP 22 and 44, for an orthonormal transform of pixels of 0 to 255."""
_GAIN = 0.5
_MAX_STAGES = 8
_NUM_CALIBRATIONS = 3
_CALIBRATION_UNIT = 10.0
"""Scale of the calibration parameters, for which Adam's step size is otherwise too small."""


class LearnedProxy(Proxy):
    """Mean–scale hyperprior codec conditioned on a codec's quality (Lu et al., IEEE TCSVT 2024).

    ```
    x ─► g_a ─► ÷Δ·m ─► y ─┬─► Q ─► ŷ ─► ·m'·Δ ─► g_s ─► x̂
                           └─► h_a ─► z ─► Q ─► ẑ ─► h_s ─► (context of ŷ) ─► μ, σ of y
    ```

    The published proxy has one network per rate. This one serves all rates: the step Δ and the gains
    (`ChannelGains`) of latents and decoder channels depend on the quality. Decoders take rounded symbols with
    straight-through gradients; in training mode the rate is that of noisy symbols. A polynomial of the
    quality, one per mode, scales the estimated rate; it is 1 until it is fitted to a codec's bytes.

    Args:
        codec: Name of the codec that it replaces.
        qualities: Smallest and largest supported quality.
        channels: Channels N of the layers; 192 in the paper.
        latent_channels: Channels M of the latent; None for N.
        num_stages: Number of downsamplings before the latent; 4 in the paper. With 3, a network of few
            channels keeps more of an image.
        context: Whether ŷ is also predicted from its causal neighbourhood, as in the joint autoregressive
            model (Minnen et al., NeurIPS 2018).
        steps: Initial quantization steps at the smallest and the largest quality, for pixels in [0, 255];
            HEVC's at QP 22 and 44 by default.
        header_bits: Bits per image that do not depend on its content; they matter for small crops.

    Raises:
        ArgumentError: If a number is out of its range.
    """

    def __init__(
        self,
        codec: str = "bpg",
        qualities: Sequence[float] = (22, 44),
        *,
        channels: int = 192,
        latent_channels: int | None = None,
        num_stages: int = 4,
        context: bool = False,
        steps: Sequence[float] = HEVC_STEPS,
        header_bits: float = 0.0,
    ) -> None:
        super().__init__(codec, qualities)
        m = channels if latent_channels is None else latent_channels
        for name, value in (("channels", channels), ("latent_channels", m), ("num_stages", num_stages)):
            if not is_whole(value) or value < 1:
                raise ArgumentError(name, expected="a whole number from 1", got=value)
        if num_stages > _MAX_STAGES:
            raise ArgumentError("num_stages", expected=f"at most {_MAX_STAGES}", got=num_stages)
        if len(steps) != 2 or not all(is_number(step) and 0 < step < math.inf for step in steps):
            raise ArgumentError("steps", expected="two numbers above 0", got=steps)
        if not is_number(header_bits) or not 0 <= header_bits < math.inf:
            raise ArgumentError("header_bits", expected="0 or more", got=header_bits)
        self.header_bits = float(header_bits)
        self.channels, self.latent_channels, self.num_stages = channels, m, num_stages
        self.context, self.steps = context, tuple(steps)
        self.stride = 4 << num_stages
        n, between = channels, num_stages - 1
        downs = [downsampling(a, b) for a, b in pairwise((3, *[n] * between, m))]
        ups = [upsampling(a, b) for a, b in pairwise((m, *[n] * between, 3))]
        self.g_a = nn.Sequential(
            *[layer for down in downs[:-1] for layer in (down, GDN(n, gamma_init=GDN_START))], downs[-1]
        )
        stages: list[nn.Module] = [
            nn.Sequential(up, GDN(n, inverse=True, gamma_init=GDN_START)) for up in ups[:-1]
        ]
        self.g_s = nn.ModuleList([*stages, ups[-1]])
        self.g_s_gains = nn.ModuleList(ChannelGains(n) for _ in range(between))
        self.h_a = nn.Sequential(
            nn.Conv2d(m, n, 3, padding=1),
            nn.LeakyReLU(),
            downsampling(n, n),
            nn.LeakyReLU(),
            downsampling(n, n),
        )
        self.h_s = nn.Sequential(
            upsampling(n, n),
            nn.LeakyReLU(),
            upsampling(n, n),
            nn.LeakyReLU(),
            nn.Conv2d(n, 2 * m, 3, padding=1),
        )
        self.h_s_gains = ChannelGains(2 * m)
        self.analysis_gains, self.synthesis_gains = ChannelGains(m), ChannelGains(m)
        self.z_gains = ChannelGains(n)
        if context:
            self.context_prediction = MaskedConv2d(m, 2 * m, 5, padding=2)
            self.entropy_parameters = nn.Sequential(
                nn.Conv2d(4 * m, 3 * m, 1), nn.LeakyReLU(), nn.Conv2d(3 * m, 2 * m, 1)
            )
        self.entropy_bottleneck = EntropyBottleneck(n)
        self.entropy_bottleneck.quantiles.requires_grad_(False)  # nothing is coded: no table needs them
        self.gaussian_conditional = GaussianConditional(None)
        scaled = [math.log(step / 255 * _GAIN**num_stages) for step in self.steps]
        self.log_steps = nn.Parameter(torch.tensor(scaled))
        self.calibration = nn.Parameter(torch.zeros(2, _NUM_CALIBRATIONS))
        start_as_haar(downs, [ups], gain=_GAIN)

    def forward(self, x: Tensor, quality: float | Tensor) -> ProxyOutput:
        """See `Proxy.forward`."""
        height, width = x.shape[-2:]
        condition = self.condition(quality, x).expand(len(x))
        step = torch.exp(torch.lerp(self.log_steps[0], self.log_steps[1], condition))[:, None, None, None]
        y = self.analysis_gains(self.g_a(pad_to_multiple(x, self.stride)) / step, condition)
        z = self.z_gains(self.h_a(y), condition)
        _, z_likelihoods = in_float32(self.entropy_bottleneck, z)
        parameters = self.h_s_gains(self.h_s(rounded(z)), condition)
        if self.context:
            parameters = self.entropy_parameters(
                torch.cat((parameters, self.context_prediction(rounded(y))), dim=1)
            )
        means, scales = parameters.chunk(2, dim=1)
        _, y_likelihoods = in_float32(self.gaussian_conditional, y, scales, means)
        y_hat = rounded(y - means) + means
        decoded = self.synthesis_gains(y_hat, condition) * step
        for number, stage in enumerate(self.g_s):
            decoded = stage(decoded)
            if number < len(self.g_s_gains):
                decoded = self.g_s_gains[number](decoded, condition)
        bits = sum(-values.log2().flatten(1).sum(dim=1) for values in (y_likelihoods, z_likelihoods))
        powers = condition[:, None] ** torch.arange(_NUM_CALIBRATIONS, device=x.device)
        # no matrix product: autocast would round that to half precision
        exponent = (_CALIBRATION_UNIT * powers * self.calibration[int(self.training)]).sum(dim=1)
        bpp = (bits * torch.exp(exponent) + self.header_bits) / (height * width)
        return ProxyOutput(decoded[..., :height, :width], bpp)

    def architecture(self) -> Settings:
        """See `Proxy.architecture`."""
        return {
            **super().architecture(),
            "channels": self.channels,
            "latent_channels": self.latent_channels,
            "num_stages": self.num_stages,
            "context": self.context,
            "steps": list(self.steps),
            "header_bits": self.header_bits,
        }


def rounded(x: Tensor) -> Tensor:
    """Round, with the gradient of the identity."""
    return x.round().detach() + (x - x.detach())
