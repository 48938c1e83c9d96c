"""Classification with ImageNet networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, get_model
from torchvision.transforms.v2 import functional as transforms

from vcm.errors import ArgumentError, MissingToolError
from vcm.losses.outputs import class_divergence
from vcm.tasks.checks import check_features, check_outputs, check_same_outputs, check_targets, image_list
from vcm.tasks.importance import class_directions
from vcm.tasks.split import SplitTask
from vcm.tasks.weights import Published, load_weights, torchvision_weights
from vcm.types import ClassScores, ClassTarget, Features, Prediction, Prepared, Settings, Target

if TYPE_CHECKING:
    from torchmetrics import Metric

IMAGENET_CATEGORIES: tuple[str, ...] = tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
"""ImageNet-1k class names in the order of the networks' outputs."""

_MEAN, _STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
_MAX_ASPECT = 8
_RESIZE_SIZES = {"IMAGENET1K_V2": 232}
_TIMM_NAME = "resnest50d"


@dataclass(frozen=True)
class _Architecture:
    """Constructor of a network, its published weights, and its division into stages and head."""

    build: Callable[[int], nn.Module]
    published: Callable[[], Published]
    split: Callable[[nn.Module], tuple[OrderedDict[str, nn.Module], nn.Module]]
    default_cut: str


class ClassificationTask(SplitTask):
    """ResNet-50, ResNeXt-50 (32x4d), MobileNetV2 (torchvision) or ResNeSt-50 (timm, an optional package).

    ```
    images ─► resize, crop, normalize ─► stem ─► layer1 ─► … ─► layer4 ─► pooling and linear layer ─► logits
    ```

    The image's shorter side is resized to `resize_size` (bilinear, antialiased), then the central square of
    `crop_size` is cropped and normalized. All steps are differentiable. If an image is longer than 8:1, only
    its central 8:1 part is resized, which includes the crop.

    The cuts of MobileNetV2 are its blocks, "features0" to "features18"; those of the others are "stem" and
    "layer1" to "layer4".

    Args:
        architecture: "resnet50", "resnext50", "mobilenet_v2" or "resnest50".
        weights: "IMAGENET1K_V1" or "IMAGENET1K_V2" ("in1k" for ResNeSt-50), a file with a state dict, or None
            for random weights.
        categories: Class names; None for ImageNet's 1,000.
        cut: Name of the stage after which `features` stops; None for the stage that ends at stride 8.
        resize_size: Length of the resized shorter side in pixels; None for 232 ("IMAGENET1K_V2") or 256.
        crop_size: Side of the network's square input in pixels, at most `resize_size`.

    Raises:
        ArgumentError: If an argument is out of range.
        WeightsError: If the weights are missing or do not match the network.
        MissingToolError: If ResNeSt-50 is requested and timm is not installed.
    """

    kind = "classification"
    architectures: ClassVar[tuple[str, ...]] = ("resnet50", "resnext50", "mobilenet_v2", "resnest50")

    def __init__(
        self,
        architecture: str,
        weights: str | Path | None,
        *,
        categories: Sequence[str] | None = None,
        cut: str | None = None,
        resize_size: int | None = None,
        crop_size: int = 224,
    ) -> None:
        super().__init__()
        if architecture not in self.architectures:
            raise ArgumentError(
                "architecture", expected=f"one of {', '.join(self.architectures)}", got=architecture
            )
        self.name = architecture
        self.categories = IMAGENET_CATEGORIES if categories is None else tuple(categories)
        self.resize_size = _RESIZE_SIZES.get(str(weights), 256) if resize_size is None else resize_size
        if not 1 <= crop_size <= self.resize_size:
            raise ArgumentError(
                "crop_size", expected=f"in [1, resize_size={self.resize_size}]", got=crop_size
            )
        self.crop_size = crop_size
        kind = _ARCHITECTURES[architecture]
        network = kind.build(len(self.categories))
        self.weights_sha256 = load_weights(network, weights, kind.published())
        stages, self.head = kind.split(network)
        self.stages = nn.ModuleDict(stages)
        self.cut = self.check_cut(kind.default_cut if cut is None else cut)
        self.freeze()

    @property
    def cuts(self) -> tuple[str, ...]:
        """Stages of the network."""
        return tuple(self.stages)

    def prepare(self, images: Tensor | Sequence[Tensor]) -> Prepared:
        """Resize and crop images; see `SplitTask.prepare`."""
        batch = image_list(images)
        sizes = tuple((image.shape[-2], image.shape[-1]) for image in batch)
        return Prepared(torch.stack([self.resize(image) for image in batch]), sizes)

    def reader_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the size after resizing the shorter side, before the crop; see `SplitTask.reader_size`."""
        shorter = min(height, width)
        if shorter <= self.resize_size:
            return height, width
        longer = int(self.resize_size * max(height, width) / shorter)
        return (self.resize_size, longer) if height <= width else (longer, self.resize_size)

    def encode(self, prepared: Prepared) -> Features:
        """Normalize, and run the stages up to and including `cut`; see `SplitTask.encode`."""
        x = transforms.normalize(prepared.inputs, _MEAN, _STD)
        for name in self.cuts[: self.cuts.index(self.cut) + 1]:
            x = self.stages[name](x)
        return Features({self.cut: x}, prepared.image_sizes)

    def onward(self, features: Features, cut: str) -> Features:
        """Run the stages from this task's cut to a later one; see `SplitTask.onward`."""
        last = self.check_later_cut(cut)
        return Features({last: self._through(features, last)}, features.image_sizes)

    def tail(self, features: Features) -> list[Prediction]:
        """Run the remaining stages and the head; see `SplitTask.tail`. Logits keep their gradient."""
        scores = self._logits(features)
        check_outputs([scores], self.name)
        return [ClassScores(logits) for logits in scores]

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """Return the logits (N, number of categories) as "logits"; see `SplitTask.outputs`."""
        return {"logits": self._logits(features)}

    def output_divergence(self, found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> Tensor:
        """Compute the KL divergence of the class probabilities in nats; see `SplitTask.output_divergence`."""
        check_same_outputs(found, true, ["logits"])
        return class_divergence(found["logits"], true["logits"])

    def output_directions(
        self, outputs: Mapping[str, Tensor], count: int, generator: torch.Generator
    ) -> list[dict[str, Tensor]]:
        """Draw Fisher directions of the softmax; see `SplitTask.output_directions`."""
        return [{"logits": g} for g in class_directions(outputs["logits"], count, generator)]

    def loss(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """Compute the cross-entropy, averaged over images; see `SplitTask.loss`."""
        logits = self._logits(self.features(images))
        checked = check_targets(targets, ClassTarget, len(logits), len(self.categories))
        return F.cross_entropy(logits, torch.tensor([t.label for t in checked], device=logits.device))

    def resize(self, image: Tensor) -> Tensor:
        """Resize and crop one image: (3, H, W) in [0, 1] → (3, crop_size, crop_size)."""
        height, width = image.shape[-2:]
        longest = _MAX_ASPECT * min(height, width)
        if max(height, width) > longest:
            image = transforms.center_crop(image, [min(height, longest), min(width, longest)])
        image = transforms.resize(image, [self.resize_size], antialias=True)
        return transforms.center_crop(image, [self.crop_size, self.crop_size])  # type: ignore[no-any-return]  # untyped

    def metric(self) -> Metric:
        """Return a metric of top-1 and top-5 accuracy."""
        from vcm.metrics.classification import TopKAccuracy  # takes a second to import

        return TopKAccuracy()

    def settings(self) -> Settings:
        """Return the settings that determine the predictions."""
        return {
            "name": self.name,
            "task": type(self).__name__,
            "weights_sha256": self.weights_sha256,
            "categories": list(self.categories),
            "cut": self.cut,
            "resize_size": self.resize_size,
            "crop_size": self.crop_size,
        }

    def _logits(self, features: Features) -> Tensor:
        """Compute the logits (N, number of categories) from the features."""
        logits: Tensor = self.head(self._through(features, self.cuts[-1]))
        return logits

    def _through(self, features: Features, last: str) -> Tensor:
        """Compute the output of the stage `last` from the features."""
        check_features(features, [self.cut])
        x = features.tensors[self.cut]
        for name in self.cuts[self.cuts.index(self.cut) + 1 : self.cuts.index(last) + 1]:
            x = self.stages[name](x)
        return x


def _torchvision(builder: str) -> tuple[Callable[[int], nn.Module], Callable[[], Published]]:
    def build(num_classes: int) -> nn.Module:
        network: nn.Module = get_model(builder, weights=None, num_classes=num_classes)
        return network

    return build, lambda: torchvision_weights(builder)


def _resnest50(num_classes: int, pretrained: str | None = None) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise MissingToolError(
            "ResNeSt-50 needs the package timm. Install it with: pip install 'vcm[timm]'"
        ) from error
    name = _TIMM_NAME if pretrained is None else f"{_TIMM_NAME}.{pretrained}"
    network: nn.Module = timm.create_model(name, pretrained=pretrained is not None, num_classes=num_classes)
    return network


def _resnest50_weights() -> Published:
    def get() -> Mapping[str, Tensor]:
        return _resnest50(len(IMAGENET_CATEGORIES), pretrained="in1k").state_dict()

    return {"in1k": get}


def _split_resnet(network: nn.Module) -> tuple[OrderedDict[str, nn.Module], nn.Module]:
    parts = OrderedDict(network.named_children())
    entry = [parts.pop(name) for name in list(parts)[:4]]
    stages = OrderedDict[str, nn.Module](stem=nn.Sequential(*entry))
    stages.update((f"layer{i}", parts.pop(f"layer{i}")) for i in range(1, 5))
    pooling, linear = parts.values()
    return stages, nn.Sequential(pooling, nn.Flatten(), linear)


def _split_mobilenet(network: nn.Module) -> tuple[OrderedDict[str, nn.Module], nn.Module]:
    blocks = network.get_submodule("features").named_children()
    stages = OrderedDict((f"features{name}", block) for name, block in blocks)
    return stages, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.get_submodule("classifier"))


_ARCHITECTURES = {
    "resnet50": _Architecture(*_torchvision("resnet50"), _split_resnet, "layer2"),
    "resnext50": _Architecture(*_torchvision("resnext50_32x4d"), _split_resnet, "layer2"),
    "mobilenet_v2": _Architecture(*_torchvision("mobilenet_v2"), _split_mobilenet, "features6"),
    "resnest50": _Architecture(_resnest50, _resnest50_weights, _split_resnet, "layer2"),
}
