"""The student: a light encoder, a factorized prior, and a decoder to the teacher's features."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

from compressai.entropy_models import EntropyBottleneck
from compressai.layers import GDN
from compressai.models import CompressionModel
from torch import Tensor, nn

from vcm.errors import ArgumentError
from vcm.nn.serialization import write_model


class EntropicStudent(CompressionModel):  # type: ignore[misc]  # compressai has no types
    """Encoder, entropy bottleneck and decoder (Matsubara et al., WACV 2022, arXiv 2108.11898).

    ```
    x ─► [conv 5×5/2 ─► GDN] ×n ─► conv 3×3 ─► z ─► Q ─► ẑ ─► conv 3×3 ─► IGDN ─► … ─► conv 3×3 ─► f̂
    ```

    The encoder runs on a camera, so it is narrow; n strided convolutions lead to the stride of the features.

    Args:
        channels: Channels of the features at the teacher's cut.
        stride: Their stride in pixels: 2, 4, 8 or 16.
        width: Channels between the encoder's layers.
        latent: Channels of z.
        hidden: Channels between the decoder's layers.

    Raises:
        ArgumentError: If the stride is another.
    """

    def __init__(
        self, channels: int, stride: int, width: int = 48, latent: int = 24, hidden: int = 96
    ) -> None:
        super().__init__()
        if stride not in (2, 4, 8, 16):
            raise ArgumentError("stride", expected="2, 4, 8 or 16", got=stride)
        self.channels, self.stride = channels, stride
        self.width, self.latent, self.hidden = width, latent, hidden
        layers: list[nn.Module] = []
        for number in range(int(math.log2(stride))):
            layers += [nn.Conv2d(width if number else 3, width, 5, stride=2, padding=2), GDN(width)]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(width, latent, 3, padding=1))
        self.entropy_bottleneck = EntropyBottleneck(latent)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent, hidden, 3, padding=1),
            GDN(hidden, inverse=True),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.LeakyReLU(),
            nn.Conv2d(hidden, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Return the features and the likelihoods of ẑ.

        Args:
            x: (N, 3, H, W) in [0, 1]; sides are multiples of `stride`.

        Returns:
            "f_hat", (N, channels, H / stride, W / stride), and "likelihoods", by name, in (0, 1].
        """
        z_hat, likelihoods = self.entropy_bottleneck(self.encoder(x))
        return {"f_hat": self.decoder(z_hat), "likelihoods": {"z": likelihoods}}

    def compress(self, x: Tensor) -> dict[str, Any]:
        """Encode (N, 3, H, W): "strings", a list of N byte strings, and "shape", (h, w) of z."""
        z = self.encoder(x)
        return {"strings": self.entropy_bottleneck.compress(z), "shape": tuple(z.shape[-2:])}

    def decompress(self, strings: list[bytes], shape: tuple[int, int]) -> Tensor:
        """Decode to f̂, (N, channels, h, w)."""
        decoded: Tensor = self.decoder(self.entropy_bottleneck.decompress(strings, shape))
        return decoded

    def architecture(self) -> dict[str, Any]:
        """Return what builds this network again, as plain JSON values; "network": the entry point."""
        names = ("channels", "stride", "width", "latent", "hidden")
        return {"network": "EntropicStudent", **{name: getattr(self, name) for name in names}}


def save_student(network: EntropicStudent, path: str | Path, **notes: str) -> None:
    """Write the network to a safetensors file, with its entropy coder's tables; `load_model` reads it."""
    network = copy.deepcopy(network)  # tables are no part of a training's state
    network.update(force=True)
    write_model(path, network.state_dict(), network.architecture(), notes)
