"""Networks of CompressAI's zoo as codecs, from local checkpoints. Does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vcm.codecs.base import Codec, check_image
from vcm.codecs.headers import MAX_PIXELS
from vcm.codecs.learned.codec import MODEL_SCALE, check_bytes
from vcm.codecs.learned.container import FINGERPRINT_BYTES, PURPOSES, Header, read_stream, write_stream
from vcm.errors import ArgumentError, BitstreamError
from vcm.types import QualityScale, Settings
from vcm.validation import check_choice

if TYPE_CHECKING:
    from torch import Tensor

ARCHITECTURES = (
    "bmshj2018-factorized",
    "bmshj2018-factorized-relu",
    "bmshj2018-hyperprior",
    "mbt2018-mean",
    "mbt2018",
    "cheng2020-anchor",
    "cheng2020-attn",
)


_LATENT_STRIDE = 16
"""Image pixels per latent position, on each side."""

MAX_AUTOREGRESSIVE_PIXELS = 1 << 21
"""Largest image for networks with a context model, which code latent positions one after another."""
_AUTOREGRESSIVE = ("mbt2018", "cheng2020-anchor", "cheng2020-attn")


class CompressAICodec(Codec):
    """A network of CompressAI's zoo, with its strings in vcm's container.

    Networks with a hyperprior derive their entropy tables in floating-point arithmetic, so streams must be
    decoded on the machine and device that encoded them. (vcm's own networks do not have this restriction.)

    mbt2018 and cheng2020 decode latent positions (16x16 pixels) one after another, at some milliseconds each.
    They are therefore limited to images of 2^21 pixels, such as 1920x1080.

    Args:
        quality: Model of a family; replaces "{quality}" in `checkpoint`.
        architecture: CompressAI's name of the network, such as "bmshj2018-hyperprior".
        checkpoint: File with a state dict, saved by CompressAI or by another training script (see
            `vcm.codecs.learned.checkpoints`), with "{quality}" in its path if each operating point is a
            separate model.
        device: Device of the network: "cpu", "cuda", …

    Raises:
        ArgumentError: If there is no such architecture.
        WeightsError: If the checkpoint cannot be read, or belongs to another architecture.
    """

    name: ClassVar[str] = "compressai"
    title: ClassVar[str] = "CompressAI"
    suffix: ClassVar[str] = ".vcm"
    quality_scale: ClassVar[QualityScale] = MODEL_SCALE

    def __init__(
        self,
        quality: float = MODEL_SCALE.default,
        *,
        architecture: str,
        checkpoint: str | Path,
        device: str = "cpu",
    ) -> None:
        from vcm.codecs.learned.checkpoints import read_checkpoint

        self.quality = self.quality_scale.check(quality)
        self.architecture = check_choice("architecture", architecture, ARCHITECTURES)
        self.checkpoint, self.device = str(checkpoint), str(device)
        path = self.checkpoint.replace("{quality}", f"{self.quality:g}")
        self.network, self.weights_sha256 = read_checkpoint(self.architecture, path)
        self.network.to(self.device)

    def encode(self, image: Tensor) -> bytes:
        """Encode an RGB image (3, H, W), uint8; see `Codec.encode`.

        Raises:
            ArgumentError: If the network has a context model and the image has more than
                `MAX_AUTOREGRESSIVE_PIXELS` pixels.
            CodecError: If the network's latent is not finite, or out of the range that can be coded.
        """
        import torch

        from vcm.nn.layers import pad_to_multiple

        check_image(image)
        size = (image.shape[1], image.shape[2])
        if size[0] * size[1] > self._max_pixels:
            raise ArgumentError(
                "image",
                expected=f"at most {self._max_pixels} pixels with {self.architecture}",
                got=f"{size[0]}x{size[1]}",
                remedy="Resize or crop the image, or use an architecture without a context model.",
            )
        x = pad_to_multiple(image[None].to(self.device).float() / 255, self.network.downsampling_factor)
        with torch.inference_mode():
            strings = self.network.compress(x)["strings"]
        header = Header(PURPOSES[0], self._fingerprint, self._channels, size, size)
        return write_stream(header, [string for (string,) in strings])

    def decode(self, data: bytes) -> Tensor:
        """Decode to an RGB image (3, H, W), uint8; see `Codec.decode`.

        Raises:
            BitstreamError: If `data` is not a complete, undamaged stream of this network, or the network's
                output is not finite.
        """
        import torch

        from vcm.codecs.learned.checkpoints import spending
        from vcm.nn.coder import SHORTEST, Budget, CodingTable, guarded

        stream = read_stream(check_bytes(data))
        header = stream.header
        if header.fingerprint != self._fingerprint:
            raise BitstreamError(
                f"the stream was encoded with another model: it has fingerprint {header.fingerprint.hex()}, "
                f"this model {self._fingerprint.hex()}."
            )
        if len(stream.sections) != self._num_sections or min(map(len, stream.sections)) < SHORTEST:
            raise BitstreamError("the stream is damaged: number or length of its sections is invalid.")
        height, width = header.size
        if height * width > self._max_pixels:
            raise BitstreamError(
                f"the stream states an image of {height}x{width}, and {self.architecture} is limited to "
                f"{self._max_pixels} pixels."
            )
        factor = self.network.downsampling_factor
        places = (-(-height // factor), -(-width // factor))
        # Check minimum lengths before memory and time are spent on the symbols.
        bottleneck = CodingTable.of(self.network.entropy_bottleneck)
        fewest = float(bottleneck.fewest_bits.sum())
        self._check_length(stream.sections[-1], fewest * places[0] * places[1], header.size)
        sections, spend = list(stream.sections), _spend_nothing
        if self._num_sections == 2:
            conditional = CodingTable.of(self.network.gaussian_conditional)
            symbols = self._channels * places[0] * places[1] * (factor // _LATENT_STRIDE) ** 2
            self._check_length(sections[0], float(conditional.fewest_bits.min()) * symbols, header.size)
            spend = Budget(sections[0], conditional).spend
            if self.architecture in _AUTOREGRESSIVE:  # these call the range coder themselves
                sections[0] = guarded(sections[0], symbols)
        with torch.inference_mode(), spending(spend):
            x: Tensor = self.network.decompress([[section] for section in sections], places)["x_hat"]
        if not x.isfinite().all():
            raise BitstreamError(
                "the network gives NaN or infinite pixels for this stream: the stream or the weights are "
                "damaged, or the stream was encoded on another kind of machine."
            )
        return (x[0, :, :height, :width].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    def settings(self) -> Settings:
        """Return everything that determines the bytes, with the hash of the weights instead of their path."""
        return {
            "name": self.name,
            "quality": self.quality,
            "architecture": self.architecture,
            "weights_sha256": self.weights_sha256,
            "device": self.device,
            "implementation": self.implementation(),
        }

    def implementation(self) -> str:
        """Return the version of CompressAI."""
        from importlib.metadata import version

        return f"compressai {version('compressai')}"

    def _check_length(self, section: bytes, bits: float, size: tuple[int, int]) -> None:
        """Raise BitstreamError if a section is too short for an image of `size`."""
        if bits / 8 * (1 - 1e-3) > len(section):
            raise BitstreamError(
                f"the stream is damaged: {len(section)} bytes cannot contain an image of "
                f"{size[0]}x{size[1]}, which needs at least {bits / 8:.0f}."
            )

    @property
    def _fingerprint(self) -> bytes:
        return bytes.fromhex(self.weights_sha256)[:FINGERPRINT_BYTES]

    @property
    def _max_pixels(self) -> int:
        return MAX_AUTOREGRESSIVE_PIXELS if self.architecture in _AUTOREGRESSIVE else MAX_PIXELS

    @property
    def _num_sections(self) -> int:
        return 2 if hasattr(self.network, "h_s") else 1

    @property
    def _channels(self) -> int:
        return int(self.network.M)


def _spend_nothing(indexes: Tensor) -> None:
    """Do nothing: an entropy bottleneck counts its symbols when it decodes them."""
