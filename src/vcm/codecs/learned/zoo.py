"""Networks of CompressAI's zoo as codecs, from checkpoints on disk. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vcm.codecs.base import Codec, check_image
from vcm.codecs.learned.codec import MODEL_SCALE, check_bytes
from vcm.codecs.learned.container import FINGERPRINT_BYTES, PURPOSES, Header, read_stream, write_stream
from vcm.codecs.options import check_choice
from vcm.errors import BitstreamError
from vcm.types import QualityScale, Settings

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


class CompressAICodec(Codec):
    """A network of CompressAI's zoo, its strings in vcm's container.

    Those with a hyperprior derive their entropy tables by floating-point arithmetic: decode on the machine
    and device that encoded. (vcm's own networks do without that.)

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
            CodecError: If the network's latent is not finite, or beyond what can be coded.
        """
        import torch

        from vcm.nn.padding import pad_to_multiple

        check_image(image)
        x = pad_to_multiple(image[None].to(self.device).float() / 255, self.network.downsampling_factor)
        with torch.inference_mode():
            strings = self.network.compress(x)["strings"]
        size = (image.shape[1], image.shape[2])
        header = Header(PURPOSES[0], self._fingerprint, self._channels, size, size)
        return write_stream(header, [string for (string,) in strings])

    def decode(self, data: bytes) -> Tensor:
        """Decode to (3, H, W) uint8 RGB; see `Codec.decode`.

        Raises:
            BitstreamError: If `data` is not a whole, undamaged stream of this network, or what the network
                makes of it is not finite.
        """
        import torch

        from vcm.codecs.learned.coder import SHORTEST, CodingTable, guarded

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
        factor = self.network.downsampling_factor
        most = self._channels * (-(-height // 16) + 4) * (-(-width // 16) + 4)  # symbols of one section
        places = (-(-height // factor), -(-width // factor))
        # The last section's table is known; what it needs is told before memory is taken for its symbols.
        fewest = float(CodingTable.of(self.network.entropy_bottleneck).fewest_bits.sum())
        needed = fewest * places[0] * places[1] / 8
        if needed * (1 - 1e-3) > len(stream.sections[-1]):
            raise BitstreamError(
                f"the stream is damaged: {len(stream.sections[-1])} bytes cannot hold an image of "
                f"{height}x{width}, which needs {needed:.0f}."
            )
        strings = [[guarded(section, most)] for section in stream.sections]
        with torch.inference_mode():
            x: Tensor = self.network.decompress(strings, places)["x_hat"]
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

    @property
    def _fingerprint(self) -> bytes:
        return bytes.fromhex(self.weights_sha256)[:FINGERPRINT_BYTES]

    @property
    def _num_sections(self) -> int:
        return 2 if hasattr(self.network, "h_s") else 1

    @property
    def _channels(self) -> int:
        return int(self.network.M)
