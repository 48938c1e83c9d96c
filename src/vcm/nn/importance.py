"""Network that predicts importance maps from images alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vcm.errors import ArgumentError, WeightsError
from vcm.nn.serialization import read_model, write_model
from vcm.types import Settings
from vcm.validation import is_whole

CHANNELS = (16, 24, 32, 48, 64)
MAX_OCTAVES = 8.0
"""Largest distance of a block's log2 importance from the image's mean."""


class ImportanceNetwork(nn.Module):
    """Predict how much a task's outputs depend on each 32×32 block, without running the task.

    ```
    x ─► [conv 3×3/2 ─► BN ─► ReLU] ×5 ─► conv 3×3 ─► BN ─► ReLU ─► conv 1×1 ─► − mean ─► log2 s
    ```

    Trained by `vcm.modules.ImportanceModule` to imitate `vcm.tasks.SplitTask.importance`. With the default
    channels it has 90,000 parameters.

    Args:
        channels: Channels of the five stages, fine to coarse.
        input_size: Longest side in pixels of the images that it was trained for; larger images are scaled
            down before it.

    Raises:
        ArgumentError: If an argument is invalid.
    """

    stride = 32

    def __init__(self, channels: Sequence[int] = CHANNELS, input_size: int = 416) -> None:
        super().__init__()
        channels = tuple(channels) if isinstance(channels, Sequence) else (channels,)
        if len(channels) != len(CHANNELS) or not all(is_whole(c) and c > 0 for c in channels):
            raise ArgumentError(
                "channels", expected="5 whole numbers from 1, fine to coarse", got=list(channels)
            )
        if not is_whole(input_size) or input_size < self.stride:
            raise ArgumentError(
                "input_size", expected=f"a whole number of pixels from {self.stride}", got=input_size
            )
        self.channels, self.input_size = channels, int(input_size)
        stages = [_block(a, b, 2) for a, b in zip((3, *channels), channels, strict=False)]
        self.layers = nn.Sequential(*stages, _block(channels[-1], channels[-1], 1))
        self.head = nn.Conv2d(channels[-1], 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Predict log2 importance.

        Args:
            x: RGB images (N, 3, H, W) in [0, 1], at the size at which the task reads them.

        Returns:
            (N, ⌈H / 32⌉, ⌈W / 32⌉), in octaves relative to the image's mean, within ±8.
        """
        octaves: Tensor = self.head(self.layers(x))[:, 0].float()
        return (octaves - octaves.mean(dim=(1, 2), keepdim=True)).clamp(-MAX_OCTAVES, MAX_OCTAVES)

    @torch.no_grad()
    def importance(self, image: Tensor) -> Tensor:
        """Predict an importance map, as `vcm.tasks.SplitTask.importance` computes it, up to a factor.

        Args:
            image: RGB image (3, H, W) in [0, 1], float.

        Returns:
            Positive map (H, W), float32, constant in each block of the scaled image.

        Raises:
            ArgumentError: If the image is not such a tensor, or the network is in training mode.
            WeightsError: If the prediction is NaN: the weights are damaged.
        """
        if self.training:
            raise ArgumentError(
                "network",
                expected="in evaluation mode",
                got="a network in training mode",
                remedy="Call network.eval() first.",
            )
        is_tensor = isinstance(image, Tensor)
        is_float = is_tensor and image.is_floating_point()
        if not is_float or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            came = f"{tuple(image.shape)} {image.dtype}" if is_tensor else type(image).__name__
            raise ArgumentError("image", expected="a float (3, H, W) RGB tensor in [0, 1]", got=came)
        height, width = image.shape[-2:]
        x = image[None].to(self.head.weight.device).float()
        scale = self.input_size / max(height, width)
        if scale < 1:
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
        rows, columns = x.shape[-2:]
        octaves = self(x)
        if octaves.isnan().any():
            raise WeightsError("The importance network gives NaN: its weights are damaged.")
        blocks = octaves.exp2()[:, None].repeat_interleave(self.stride, 2).repeat_interleave(self.stride, 3)
        pixels = F.interpolate(blocks[..., :rows, :columns], size=(height, width), mode="nearest")
        return pixels[0, 0].to(image.device)

    def architecture(self) -> Settings:
        """Return the settings for `build_importance`, as plain JSON values."""
        return {
            "network": type(self).__name__,
            "channels": list(self.channels),
            "input_size": self.input_size,
        }


def block_octaves(importance: Tensor, block: int = ImportanceNetwork.stride) -> Tensor:
    """Return log2 of the mean importance of each block, relative to the image's mean of these.

    Args:
        importance: Nonnegative map (H, W).
        block: Block size in pixels.

    Returns:
        (⌈H / block⌉, ⌈W / block⌉), float32, within ±8; zeros if all pixels have importance 0.
    """
    means = F.avg_pool2d(importance[None, None].double(), block, ceil_mode=True, count_include_pad=False)[
        0, 0
    ]
    if means.max() <= 0:
        return torch.zeros(means.shape, device=means.device)
    octaves = means.clamp_min(2.0**-16 * means.mean()).log2()
    return (octaves - octaves.mean()).clamp(-MAX_OCTAVES, MAX_OCTAVES).float()


def save_importance(network: ImportanceNetwork, path: str | Path, **notes: str) -> None:
    """Write an importance network to a safetensors file.

    Args:
        network: Network to save.
        path: The file; its folder must exist.
        notes: Further metadata of the file.
    """
    write_model(path, network.state_dict(), network.architecture(), notes)


def build_importance(architecture: Settings) -> ImportanceNetwork:
    """Build a network from the settings of `ImportanceNetwork.architecture`.

    Raises:
        ArgumentError: If that is not such a description.
    """
    settings = {name: value for name, value in architecture.items() if name != "network"}
    expected = "what ImportanceNetwork.architecture() gives"
    if architecture.get("network") != ImportanceNetwork.__name__:
        raise ArgumentError("architecture", expected=expected, got=architecture.get("network"))
    try:
        return ImportanceNetwork(**settings)
    except TypeError as error:
        raise ArgumentError("architecture", expected=expected, got=str(error)) from error


def load_importance(path: str | Path) -> ImportanceNetwork:
    """Read an importance network from a model file, in evaluation mode, on the CPU.

    Raises:
        WeightsError: If the file is missing, damaged or something else.
    """
    return read_model(path, "an importance network", build_importance)


def _block(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """Build a 3×3 convolution with batch normalization and ReLU; ⌈side / stride⌉ outputs per side."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())
