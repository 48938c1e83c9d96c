"""Identity proxy, for ablations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.nn.gains import ChannelGains
from vcm.nn.proxy.base import Proxy, ProxyOutput
from vcm.types import Settings
from vcm.validation import is_number, is_whole

Rate = Literal["learned", "constant"]
_SIDE = 5


class IdentityProxy(Proxy):
    """Ablation: the unchanged image, with a learned or constant rate.

    ```
    x ─┬─► decoded
       └─► − local mean ─► conv 5×5/2 ─► |·| ─► ·m ─► log(1 + ·) ─► conv 1×1 ─► softplus ─► mean ─► bpp
    ```

    The gains m depend on the quality, like a codec's quantization steps. A learned rate is arbitrary until it
    is trained to imitate a codec's rate. A constant rate has no gradient.

    Args:
        codec: Name of the codec that it replaces.
        qualities: Smallest and largest supported quality.
        rate: "learned" or "constant".
        channels: Channels of the rate network.
        bpp: Constant rate, or initial value of the learned rate.

    Raises:
        ArgumentError: If an argument is invalid.
    """

    def __init__(
        self,
        codec: str,
        qualities: Sequence[float],
        rate: Rate = "learned",
        channels: int = 16,
        bpp: float = 1.0,
    ) -> None:
        super().__init__(codec, qualities)
        if rate not in get_args(Rate):
            raise ArgumentError("rate", expected="'learned' or 'constant'", got=rate)
        if not is_whole(channels) or channels < 1:
            raise ArgumentError("channels", expected="a whole number from 1", got=channels)
        if not is_number(bpp) or not 0 < bpp < math.inf:
            raise ArgumentError("bpp", expected="a number above 0, in bits per pixel", got=bpp)
        self.rate, self.channels, self.bpp = rate, channels, bpp
        if rate == "learned":
            self.filters = nn.Conv2d(3, channels, _SIDE, stride=2, padding=_SIDE // 2, bias=False)
            self.gains = ChannelGains(channels)
            self.head = nn.Conv2d(channels, 1, 1)
            nn.init.zeros_(self.head.weight)
            assert self.head.bias is not None
            nn.init.constant_(self.head.bias, bpp + math.log(-math.expm1(-bpp)))  # softplus of it is bpp

    def forward(self, x: Tensor, quality: float | Tensor) -> ProxyOutput:
        """See `Proxy.forward`."""
        condition = self.condition(quality, x)
        if self.rate == "constant":
            return ProxyOutput(x, x.new_full((x.shape[0],), self.bpp))
        around = F.pad(x, (_SIDE // 2,) * 4, mode="replicate")
        detail = 255 * (x - F.avg_pool2d(around, _SIDE, stride=1))
        activity = torch.log1p(self.gains(self.filters(detail).abs(), condition))
        return ProxyOutput(x, F.softplus(self.head(activity).float()).mean(dim=(1, 2, 3)))

    def architecture(self) -> Settings:
        """See `Proxy.architecture`."""
        return {**super().architecture(), "rate": self.rate, "channels": self.channels, "bpp": self.bpp}
