"""Networks of CompressAI's zoo as codecs, from checkpoints on disk. Importing this imports no torch."""

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
"""Pixels of the image to one place of the latent, on each side."""

MAX_AUTOREGRESSIVE_PIXELS = 1 << 21
"""Largest image of the networks with a context model, which code one place of the latent after another."""
_AUTOREGRESSIVE = ("mbt2018", "cheng2020-anchor", "cheng2020-attn")


class CompressAICodec(Codec):
    """A network of CompressAI's zoo, its strings in vcm's container.

    Those with a hyperprior derive their entropy tables by floating-point arithmetic: decode on the machine
    and device that encoded. (vcm's own networks do without that.)

    mbt2018 and cheng2020 decode the places of the latent (16x16 pixels) one after another, some milliseconds
    each, however short the stream: they take images of at most 2^21 pixels, such as 1920x1080.

    Args:
        quality: Which model of a family; it replaces "{quality}" in `checkpoint`.
        architecture: CompressAI's name of the network, such as "bmshj2018-hyperprior".
        checkpoint: A file of its state dict, as CompressAI or a training script of one's own saves it (see
            `vcm.codecs.learned.checkpoints`), with "{quality}" in its path where each operating point is a
            model of its own.
        device: Where the network runs: "cpu", "cuda", …

    Raises:
        ArgumentError: If there is no such architecture.
        WeightsError: If the checkpoint cannot be read, or is of another architecture.
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
        """Encode (3, H, W) uint8 RGB; see `Codec.encode`.

        Raises:
            ArgumentError: If the image has more than `MAX_AUTOREGRESSIVE_PIXELS` and the network codes one
                place after another.
            CodecError: If the network's latent is not finite, or beyond what can be coded.
        """
        import torch

        from vcm.nn.layers import pad_to_multiple

        check_image(image)
        size = (image.shape[1], image.shape[2])
        if size[0] * size[1] > self._max_pixels:
            raise ArgumentError(
                "image",
                expected=f"of at most {self._max_pixels} pixels with {self.architecture}",
                got=f"{size[0]}x{size[1]}",
                remedy="Resize or crop it, or choose an architecture without a context model.",
            )
        x = pad_to_multiple(image[None].to(self.device).float() / 255, self.network.downsampling_factor)
        with torch.inference_mode():
            strings = self.network.compress(x)["strings"]
        header = Header(PURPOSES[0], self._fingerprint, self._channels, size, size)
        return write_stream(header, [string for (string,) in strings])

    def decode(self, data: bytes) -> Tensor:
        """Decode to (3, H, W) uint8 RGB; see `Codec.decode`.

        Raises:
            BitstreamError: If `data` is not a whole, undamaged stream of this network, or what the network
                makes of it is not finite.
        """
        import torch

        from vcm.codecs.learned.checkpoints import spending
        from vcm.codecs.learned.coder import SHORTEST, Budget, CodingTable, guarded

        stream = read_stream(check_bytes(data))
        header = stream.header
        if header.fingerprint != self._fingerprint:
            raise BitstreamError(
                f"the stream is of another model: it has fingerprint {header.fingerprint.hex()}, this model "
                f"{self._fingerprint.hex()}."
            )
        if len(stream.sections) != self._num_sections or min(map(len, stream.sections)) < SHORTEST:
            raise BitstreamError("the stream is damaged: its sections are not such as this network writes.")
        height, width = header.size
        if height * width > self._max_pixels:
            raise BitstreamError(
                f"the stream states an image of {height}x{width}; with {self.architecture} at most "
                f"{self._max_pixels} pixels are allowed."
            )
        factor = self.network.downsampling_factor
        places = (-(-height // factor), -(-width // factor))
        # What each section needs at least is reported before memory and time are taken for its symbols.
        bottleneck = CodingTable.of(self.network.entropy_bottleneck)
        fewest = float(bottleneck.fewest_bits.sum())
        self._check_length(stream.sections[-1], fewest * places[0] * places[1], header.size)
        sections, spend = list(stream.sections), _spend_nothing
        if self._num_sections == 2:
            conditional = CodingTable.of(self.network.gaussian_conditional)
            symbols = self._channels * places[0] * places[1] * (factor // _LATENT_STRIDE) ** 2
            self._check_length(sections[0], float(conditional.fewest_bits.min()) * symbols, header.size)
            spend = Budget(sections[0], conditional).spend
            if self.architecture in _AUTOREGRESSIVE:  # it calls the range coder itself
                sections[0] = guarded(sections[0], symbols)
        with torch.inference_mode(), spending(spend):
            x: Tensor = self.network.decompress([[section] for section in sections], places)["x_hat"]
        if not x.isfinite().all():
            raise BitstreamError(
                "the network gives NaN or infinite pixels from this stream: the stream or the weights are "
                "damaged, or it was coded on another kind of machine."
            )
        return (x[0, :, :height, :width].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu()

    def settings(self) -> Settings:
        """What decides the bytes: the weights, wherever their file lies."""
        return {
            "name": self.name,
            "quality": self.quality,
            "architecture": self.architecture,
            "weights_sha256": self.weights_sha256,
            "device": self.device,
            "implementation": self.implementation(),
        }

    def implementation(self) -> str:
        """Version of CompressAI."""
        from importlib.metadata import version

        return f"compressai {version('compressai')}"

    def _check_length(self, section: bytes, bits: float, size: tuple[int, int]) -> None:
        """Raise BitstreamError if a section is shorter than an image of `size` needs at least."""
        if bits / 8 * (1 - 1e-3) > len(section):
            raise BitstreamError(
                f"the stream is damaged: {len(section)} bytes cannot hold an image of {size[0]}x{size[1]}, "
                f"which needs {bits / 8:.0f}."
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
    """Count no symbols: those of a bottleneck are counted where they are decoded."""
