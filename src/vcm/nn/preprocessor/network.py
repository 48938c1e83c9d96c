"""Neural preprocessor network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vcm.deprecation import former_arguments, former_attribute
from vcm.errors import ArgumentError, WeightsError
from vcm.nn.gains import ChannelGains, as_batch
from vcm.nn.layers import pad_to_multiple
from vcm.types import Settings
from vcm.validation import is_number, is_whole

CHANNELS = (32, 64, 128, 256)
"""The paper's U-Net."""
LMBDA_UNIT = 8.0
"""Divisor of λ before the MLP of the gains."""
_NUM_STAGES = 4
_NUM_GAINS = 3


class NPP(nn.Module):
    """x̄ = clamp(P(x) + U(x), 0, 1) (Lu et al., IEEE TCSVT 2024).

    ```
    x ─┬─► P: conv 1×1 ─► ReLU ─► conv 1×1 ──────────────────────┬─► + ─► clamp ─► x̄
       └─► U: [3×3, 3×3 ─┬─► 3×3/2] ×4 ─► [deconv/2, concat] ×4 ─► 3×3, 3×3, 1×1 ┘
                         └──────────── skip ─────────────┘
    ```

    Batch normalization and ReLU follow every convolution of U except those of the head. A new network is the
    identity: P starts as the identity, and U's last layer with zeros. Images may have any size; they are
    padded to multiples of 16 inside.

    Args:
        channels: Channels of U's four stages, fine to coarse.

    Raises:
        ArgumentError: If `channels` are not four whole numbers from 1.
    """

    stride = 1 << _NUM_STAGES

    def __init__(self, channels: Sequence[int] = CHANNELS) -> None:
        super().__init__()
        channels = tuple(channels)
        if len(channels) != _NUM_STAGES or not all(is_whole(c) and c > 0 for c in channels):
            raise ArgumentError(
                "channels", expected=f"{_NUM_STAGES} whole numbers from 1, fine to coarse", got=channels
            )
        self.channels = channels
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        for pointwise in (self.first, self.second):
            nn.init.dirac_(pointwise.weight)
            nn.init.zeros_(_bias(pointwise))
        befores = (3, *channels[:-1])
        self.pairs = nn.ModuleList(
            nn.Sequential(_block(before, after), _block(after, after))
            for before, after in zip(befores, channels, strict=True)
        )
        self.downs = nn.ModuleList(_block(width, width, stride=2) for width in channels)
        deeper = (*(2 * width for width in channels[1:]), channels[-1])
        self.ups = nn.ModuleList(_up(below, width) for below, width in zip(deeper, channels, strict=True))
        head = nn.Conv2d(channels[0], 3, 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(_bias(head))
        self.head = nn.Sequential(
            nn.Conv2d(2 * channels[0], channels[0], 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels[0], channels[0], 3, padding=1),
            nn.ReLU(),
            head,
        )

    @former_arguments(rate="lmbda")
    def forward(self, x: Tensor, lmbda: float | Tensor | None = None) -> Tensor:
        """Filter images.

        Args:
            x: (N, 3, H, W) RGB in [0, 1], of any size from 1×1.
            lmbda: Ignored: this network was trained for one λ.

        Returns:
            (N, 3, H, W) in [0, 1].

        Raises:
            WeightsError: In evaluation mode, if a pixel is NaN or infinite.
        """
        del lmbda
        return self._filtered(x, None)

    def _filtered(self, x: Tensor, condition: Tensor | None) -> Tensor:
        height, width = x.shape[-2:]
        padded = pad_to_multiple(x, self.stride)
        changed = self.pointwise(padded, condition) + self.unet(padded, condition)
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[no-untyped-call,attr-defined]  # torch's own
        if not (self.training or traced):
            _check_finite(changed)
        return changed[..., :height, :width].clamp(0, 1)

    def pointwise(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Apply P, the pointwise branch, to (N, 3, H, W)."""
        x = torch.relu(self.gained("first", self.first(x), condition))
        return self.gained("second", self.second(x), condition)

    def unet(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """Apply U, the U-Net branch, to (N, 3, H, W); H and W are multiples of 16."""
        skips = []
        for number, (pair, down) in enumerate(zip(self.pairs, self.downs, strict=True)):
            skip = self.gained(f"down{number}", pair(x), condition)
            skips.append(skip)
            x = down(skip)
        for number in reversed(range(_NUM_STAGES)):
            up = self.gained(f"up{number}", self.ups[number](x), condition)
            x = torch.cat((up, skips[number]), dim=1)
        added: Tensor = self.head(x)
        return added

    def gained(self, place: str, x: Tensor, condition: Tensor | None) -> Tensor:
        """Return a feature map unchanged; quantization-adaptive networks multiply its channels."""
        del place, condition
        return x

    def architecture(self) -> Settings:
        """Return the settings for `build_preprocessor`, as plain JSON values."""
        return {"network": type(self).__name__, "channels": list(self.channels)}


class QuantizationAdaptiveNPP(NPP):
    """QA-NPP: one preprocessor for every rate (Lu et al., IEEE TCSVT 2024).

    Gains m = MLP(λ/8) multiply the channels after both 1×1 convolutions of P, at U's first three skips, and
    after its last three deconvolutions. For other λ than those of its training it interpolates.

    Args:
        channels: Channels of U's four stages, fine to coarse.
        lmbda_range: Smallest and largest λ, above 0; 0.25 to 16 in the paper.

    Raises:
        ArgumentError: If `channels` or `lmbda_range` is invalid.
    """

    @former_arguments(rates="lmbda_range")
    def __init__(
        self, channels: Sequence[int] = CHANNELS, lmbda_range: Sequence[float] = (0.25, 16.0)
    ) -> None:
        super().__init__(channels)
        self.lmbda_range = tuple(lmbda_range)
        if (
            len(self.lmbda_range) != 2
            or not all(is_number(lmbda) for lmbda in self.lmbda_range)
            or not 0 < self.lmbda_range[0] <= self.lmbda_range[1] < float("inf")
        ):
            raise ArgumentError(
                "lmbda_range",
                expected="two numbers above 0, the smallest and the largest λ",
                got=lmbda_range,
            )
        places = {"first": 3, "second": 3}
        for number in range(_NUM_GAINS):
            places[f"down{number}"] = places[f"up{number}"] = self.channels[number]
        self.gains = nn.ModuleDict({place: ChannelGains(width) for place, width in places.items()})

    @former_arguments(rate="lmbda")
    def forward(self, x: Tensor, lmbda: float | Tensor | None = None) -> Tensor:
        """Filter images for a rate.

        Args:
            x: (N, 3, H, W) RGB in [0, 1], of any size from 1×1.
            lmbda: λ in `lmbda_range`: a number, or an unchecked tensor of shape (1,) or (N,). A larger λ
                keeps more of what the task needs, at more bits.

        Returns:
            (N, 3, H, W) in [0, 1].

        Raises:
            ArgumentError: If λ is missing, or a number outside `lmbda_range`.
            WeightsError: In evaluation mode, if a pixel is NaN or infinite.
        """
        if not isinstance(lmbda, Tensor):
            lmbda = self.check_lmbda(lmbda)
        return self._filtered(x, as_batch(lmbda, x) / LMBDA_UNIT)

    rates = former_attribute("rates", "lmbda_range")

    def check_lmbda(self, lmbda: float | None) -> float:
        """Return λ if it is in `lmbda_range`.

        Raises:
            ArgumentError: If it is missing, not a number, or outside `lmbda_range`.
        """
        low, high = self.lmbda_range
        if not is_number(lmbda) or not low <= lmbda <= high:  # type: ignore[operator]  # a number
            raise ArgumentError(
                "lmbda",
                expected=f"a number from {low:g} to {high:g}, the range this preprocessor was trained for",
                got=lmbda,
            )
        return float(lmbda)  # type: ignore[arg-type]  # a number

    def gained(self, place: str, x: Tensor, condition: Tensor | None) -> Tensor:
        """Multiply the channels of a feature map where the paper has gains."""
        if place not in self.gains or condition is None:
            return x
        gained: Tensor = self.gains[place](x, condition)
        return gained

    def architecture(self) -> Settings:
        """See `NPP.architecture`."""
        return {**super().architecture(), "rates": list(self.lmbda_range)}  # the key in model files of 0.1


def _check_finite(pixels: Tensor) -> None:
    low, high = pixels.detach().aminmax()
    if not (low.isfinite() and high.isfinite()):
        raise WeightsError(
            f"The preprocessor gives NaN or infinite pixels for an image of {tuple(pixels.shape[-2:])}: its "
            "weights are damaged, or training diverged. Use another model file."
        )


def _block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Build a 3×3 convolution with batch normalization and ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def _up(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build an upsampling block of factor 2."""
    deconv = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=False)
    return nn.Sequential(deconv, nn.BatchNorm2d(out_channels), nn.ReLU())


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
