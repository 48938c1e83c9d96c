"""Building blocks of torchvision's detectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
"""Stages of the ResNet-50 backbone, from input to output."""


@dataclass(frozen=True)
class Architecture:
    """Parameters of one detector; `pyramid` lists the backbone stages that its feature pyramid reads."""

    model: Callable[..., Any]
    builder: str
    pyramid: tuple[int, ...]
    extra_levels: Callable[[], nn.Module]
    extra_names: tuple[str, ...]
    score_argument: str
    score_threshold: float
    default_cut: str
    norm_eps: float
    """Epsilon of the frozen normalization with which COCO_V1 was trained."""


def _p6p7() -> nn.Module:
    levels: nn.Module = LastLevelP6P7(256, 256)
    return levels


_ONE_STAGE = ((2, 3, 4), _p6p7, ("p6", "p7"), "score_thresh")
_TWO_STAGE = ((1, 2, 3, 4), LastLevelMaxPool, ("pool",), "box_score_thresh")
ARCHITECTURES = {
    "fcos": Architecture(FCOS, "fcos_resnet50_fpn", *_ONE_STAGE, 0.2, "layer2", 1e-5),
    "retinanet": Architecture(RetinaNet, "retinanet_resnet50_fpn", *_ONE_STAGE, 0.05, "layer2", 0.0),
    "faster_rcnn": Architecture(FasterRCNN, "fasterrcnn_resnet50_fpn", *_TWO_STAGE, 0.05, "layer1", 0.0),
    "mask_rcnn": Architecture(MaskRCNN, "maskrcnn_resnet50_fpn", *_TWO_STAGE, 0.05, "layer1", 0.0),
}


def build_detector(kind: Architecture, num_classes: int, score_threshold: float, resize: Resize) -> Any:  # noqa: ANN401  # torchvision is untyped
    """Build a detector with random weights; `num_classes` includes the background, label 0."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        trainable_layers=0,
        returned_layers=list(kind.pyramid),
        extra_blocks=kind.extra_levels(),
    )
    model = kind.model(backbone, num_classes=num_classes, **{kind.score_argument: score_threshold})
    model.transform = resize
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = kind.norm_eps
    return model


def drop_mask_branch(model: nn.Module) -> None:
    """Remove Mask R-CNN's mask branch; other detectors are not changed."""
    if isinstance(model, MaskRCNN):
        model.roi_heads.mask_roi_pool = model.roi_heads.mask_head = model.roi_heads.mask_predictor = None


class Resize(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's resizing with at least one pixel per side, for images such as 1 × 5000."""

    def __init__(self, min_size: int, max_size: int) -> None:
        super().__init__(min_size, max_size, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the resized (height, width) of an image."""
        scale = min(self.min_size[0] / min(height, width), self.max_size / max(height, width))
        return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize an image (3, H, W), and the target's boxes."""
        before, after = image.shape[-2:], self.resized(*image.shape[-2:])
        image = F.interpolate(image[None], size=after, mode="bilinear", align_corners=False)[0]
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], before, after)
        return image, target


@contextmanager
def asked_for_losses(model: nn.Module) -> Iterator[None]:
    """Let a detector return its training losses while all its layers stay in evaluation mode.

    Only the flags that its forward functions check are set, not those of modules that behave differently in
    training.
    """
    parts = [part for part in (model, getattr(model, "rpn", None), getattr(model, "roi_heads", None)) if part]
    try:
        for part in parts:
            part.training = True
        yield
    finally:
        for part in parts:
            part.training = False
