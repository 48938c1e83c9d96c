"""Trained networks as codecs. Does not import torch."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vcm.codecs.base import Codec, check_image
from vcm.codecs.features import FeatureCodec
from vcm.codecs.headers import MAX_PIXELS
from vcm.errors import ArgumentError
from vcm.types import QualityScale, Settings
from vcm.validation import check_choice

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from vcm.codecs.learned.effort import Metric, Objective
    from vcm.codecs.learned.streams import StreamCoder
    from vcm.nn.slimmable import FeatureMap, MultiTaskNetwork

MODEL_SCALE = QualityScale("model or quality", 0, 1e9, higher_is_better=True, default=1, integer=False)


class ModelStreams:
    """Common base of `LearnedCodec` and `SlimmableFeatureCodec`: a model, one of its tasks, and settings.

    Args:
        quality: Quality of the model; or, if `model` contains "{quality}", the model of a family. None for
            the model's middle quality, or for model 1 of a family. Models of a family use their middle
            quality.
        model: Model file written by `vcm train`, with "{quality}" in its path if each operating point is a
            separate model; or a network, which is set to evaluation mode, moved to the device, and must not
            be trained while the codec is in use.
        task: Task of the model.
        device: Device of the network: "cpu", "cuda", …
        effort: Steps of the encoder-side search per image; 0 for no search.
        lmbda: λ of the search; None for the λ recorded in the model file.

    Raises:
        ArgumentError: If the model does not have the task or quality, or the search has no λ.
        WeightsError: If the model file cannot be read.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffix: ClassVar[str] = ".vcm"
    quality_scale: ClassVar[QualityScale] = MODEL_SCALE

    def __init__(
        self,
        quality: float | None,
        model: str | Path | MultiTaskNetwork,
        task: str,
        *,
        device: str,
        effort: int,
        lmbda: float | None,
    ) -> None:
        import torch

        from vcm.codecs.learned.effort import Effort, TrainingNote
        from vcm.nn.slimmable import MultiTaskNetwork, load_network

        is_family = not isinstance(model, MultiTaskNetwork) and "{quality}" in str(model)
        if quality is None and is_family:
            quality = self.quality_scale.default
        if quality is not None:
            quality = self.quality_scale.check(quality)
        if isinstance(model, MultiTaskNetwork):
            network = model.eval()
        else:
            network = load_network(str(model).replace("{quality}", f"{quality:g}") if is_family else model)
        # For a family or a model with a single quality, the number is only a label.
        self._coded_with = network.check_quality(None if is_family or network.qualities == 1 else quality)
        self.quality = self._coded_with
        if quality is not None and (is_family or network.qualities == 1):
            self.quality = quality
        if task not in network.tasks:
            raise ArgumentError("task", expected=f"a task of the model: {', '.join(network.tasks)}", got=task)
        self.network, self.task = network.to(device).to(memory_format=torch.channels_last), task
        self.device = str(device)
        self.training = TrainingNote.of(network, task)
        self._effort = Effort(effort, lmbda, self.training.lmbdas)
        self.effort, self.lmbda = self._effort.steps, lmbda
        if self.effort:
            self._effort.lmbda(self._coded_with)  # raises now if there is no λ

    @cached_property
    def streams(self) -> StreamCoder:
        """Encoder and decoder of the streams."""
        from vcm.codecs.learned.streams import StreamCoder

        return StreamCoder(self.network, self.task, self._coded_with)

    @classmethod
    def unavailable(cls) -> str:
        """Return an empty string: learned codecs need only vcm itself."""
        return ""

    def settings(self) -> Settings:
        """Return everything that determines the bytes, with the hash of the weights instead of their path."""
        return {
            "name": self.name,
            "quality": self.quality,
            "task": self.task,
            "model": self.network.architecture(),
            "weights_sha256": self.network.weights_sha256(),
            "device": self.device,
            "implementation": self.implementation(),
            **self._search_settings(),
        }

    def _search_settings(self) -> Settings:
        """Return the settings of the search; empty without one, so that earlier records keep their keys."""
        if not self.effort:
            return {}
        from vcm.nn.annealing import VERSION

        lmbda = self._effort.lmbda(self._coded_with)
        return {"effort": self.effort, "lmbda": lmbda, "search_version": VERSION}

    def implementation(self) -> str:
        """Return the version of the entropy coder."""
        from importlib.metadata import version

        return f"compressai {version('compressai')}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}(quality={self.quality:g}, task={self.task!r})"


class LearnedCodec(ModelStreams, Codec):
    """Trained network as an image codec: range-coded latents in vcm's container.

    Args:
        quality: Quality of the model; or, if `model` contains "{quality}", the model of a family. None for
            the model's middle quality, or for model 1 of a family. Models of a family use their middle
            quality.
        model: Model file written by `vcm train`, with "{quality}" in its path if each operating point is a
            separate model; or a network, which is set to evaluation mode, moved to the device, and must not
            be trained while the codec is in use.
        device: Device of the network: "cpu", "cuda", …
        effort: Steps of the encoder-side search per image (per 512 × 512 tile of larger images); 0 for no
            search. Any decoder of the model reads the streams. The estimated rate + λ · distortion never gets
            worse.
        lmbda: λ of the search, in bits / pixel + λ · 255² · MSE; None for the λ recorded in the model file.
        metric: Distortion of the search: "mse" or "ms_ssim" (1 − MS-SSIM).

    Raises:
        ArgumentError: If the model has no task "reconstruction" or not this quality, or the search has no λ.
        WeightsError: If the model file cannot be read.
    """

    name: ClassVar[str] = "learned"
    title: ClassVar[str] = "Learned codec"

    def __init__(
        self,
        quality: float | None = None,
        *,
        model: str | Path | MultiTaskNetwork,
        device: str = "cpu",
        effort: int = 0,
        lmbda: float | None = None,
        metric: Metric = "mse",
    ) -> None:
        super().__init__(quality, model, "reconstruction", device=device, effort=effort, lmbda=lmbda)
        check_choice("metric", metric, ("mse", "ms_ssim"))
        self.metric: Metric = metric

    def encode(self, image: Tensor, on_step: Callable[[int, int], None] | None = None) -> bytes:
        """Encode an RGB image (3, H, W), uint8; see `Codec.encode`.

        Args:
            image: The image.
            on_step: Progress callback of the search; receives the steps done and the total.
        """
        from torch import inference_mode

        from vcm.codecs.learned.effort import image_search

        check_image(image)
        with inference_mode(False):  # the search needs gradients
            x = image[None].to(self.device).float().div_(255)
            search = image_search(self.streams, x, self._effort, metric=self.metric, on_step=on_step)
            return self.streams.encode(x, (image.shape[1], image.shape[2]), search)

    def _search_settings(self) -> Settings:
        found = super()._search_settings()
        return {**found, "metric": self.metric} if found else found

    def decode(self, data: bytes) -> Tensor:
        """Decode to an RGB image (3, H, W), uint8; see `Codec.decode`."""
        import torch

        _, decoded = self.streams.decode(check_bytes(data))
        # In place, because copies are expensive for large images.
        return decoded[0].float().clamp(0, 1).mul_(255).round_().to(torch.uint8).cpu()


class SlimmableFeatureCodec(ModelStreams, FeatureCodec):
    """Trained network as a feature codec: from a task's input to the feature map at the task's cut.

    Args:
        quality: Quality of the model; or, if `model` contains "{quality}", the model of a family. None for
            the model's middle quality, or for model 1 of a family. Models of a family use their middle
            quality.
        model: Model file written by `vcm train`, with "{quality}" in its path if each operating point is a
            separate model; or a network, which is set to evaluation mode, moved to the device, and must not
            be trained while the codec is in use.
        task: Task of the model, other than "reconstruction".
        device: Device of the network: "cpu", "cuda", …
        effort: Steps of the encoder-side search per image; 0 for no search. Any decoder of the model reads
            the streams. The estimated rate + λ · distance never gets worse.
        lmbda: λ of the search; None for 0.15 times the λ recorded in the model file, which keeps the rate
            about the same.
        objective: Task distance for the search; `vcm evaluate` and `vcm compress` set it.

    Raises:
        ArgumentError: If the model does not have the task or quality, or the search has no λ.
        WeightsError: If the model file cannot be read.
    """

    name: ClassVar[str] = "features"
    title: ClassVar[str] = "Learned features"

    def __init__(
        self,
        quality: float | None = None,
        *,
        model: str | Path | MultiTaskNetwork,
        task: str = "detection",
        device: str = "cpu",
        effort: int = 0,
        lmbda: float | None = None,
        objective: Objective | None = None,
    ) -> None:
        super().__init__(quality, model, task, device=device, effort=effort, lmbda=lmbda)
        self.objective, self.guides = objective, tuple(self.training.guides)
        if task not in self.network.features:
            raise ArgumentError(
                "task", expected=f"one of {', '.join(self.network.features) or 'none'}", got=task
            )

    @property
    def feature_map(self) -> FeatureMap:
        """See `FeatureCodec.feature_map`."""
        return self.network.features[self.task]

    def encode(
        self, x: Tensor, size: tuple[int, int], on_step: Callable[[int, int], None] | None = None
    ) -> bytes:
        """See `FeatureCodec.encode`. Also raises ArgumentError for a search without an objective."""
        from torch import inference_mode

        from vcm.codecs.learned.effort import feature_search

        if x.ndim != 4 or x.shape[:2] != (1, 3) or 0 in x.shape or not x.is_floating_point():
            raise ArgumentError(
                "x", expected="a float tensor (1, 3, H, W) in [0, 1]", got=f"{tuple(x.shape)} {x.dtype}"
            )
        if not x.isfinite().all():
            raise ArgumentError("x", expected="finite and in [0, 1]", got="NaN or infinite pixels")
        for name, (height, width) in (("size", size), ("x", (x.shape[2], x.shape[3]))):
            if not (height >= 1 and width >= 1 and height * width <= MAX_PIXELS):
                raise ArgumentError(name, expected=f"1 to {MAX_PIXELS} pixels", got=f"{height}x{width}")
        with inference_mode(False):  # the search needs gradients
            x = (x.clone() if x.is_inference() else x).to(self.device)
            search = feature_search(
                self.streams,
                x,
                self._effort,
                num_pixels=size[0] * size[1],
                objective=self.objective,
                on_step=on_step,
            )
            return self.streams.encode(x, size, search)

    def _search_settings(self) -> Settings:
        found = super()._search_settings()
        if not found:
            return found
        lmbda = self._effort.narrow_lmbda(self._coded_with)
        return {**found, "lmbda": lmbda, "guides": list(self.guides)}

    def decode(self, data: bytes) -> tuple[Tensor, tuple[int, int]]:
        """See `FeatureCodec.decode`. Streams of other models or tasks raise BitstreamError."""
        header, features = self.streams.decode(check_bytes(data))
        return features, header.size


def check_bytes(data: bytes) -> bytes:
    """Return `data` as bytes; raise ArgumentError for anything else."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ArgumentError("data", expected="bytes from encode", got=type(data).__name__)
    return bytes(data)
