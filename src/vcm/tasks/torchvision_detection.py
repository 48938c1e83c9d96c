"""torchvision detectors on ResNet-50 with a feature pyramid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import get_model_weights
from torchvision.models.detection.image_list import ImageList

from vcm.categories import COCO_CATEGORIES, match_categories
from vcm.errors import ArgumentError
from vcm.losses.outputs import dense_divergence
from vcm.tasks.checks import (
    check_features,
    check_outputs,
    check_same_outputs,
    check_targets,
    image_list,
    trainable_boxes,
)
from vcm.tasks.split import SplitTask
from vcm.tasks.torchvision_models import (
    ARCHITECTURES,
    STAGES,
    Resize,
    asked_for_losses,
    build_detector,
    drop_mask_branch,
)
from vcm.tasks.weights import load_weights, torchvision_weights
from vcm.types import BoxTarget, Detections, Features, Prediction, Prepared, Settings, Target
from vcm.validation import check_between

if TYPE_CHECKING:
    from torchmetrics import Metric


_MIN_DISTANCES = 0.1
"""Minimum width and height of FCOS boxes, in anchor sizes, that relative errors are divided by."""


class TorchvisionDetectionTask(SplitTask):
    """FCOS, RetinaNet, Faster R-CNN or Mask R-CNN on ResNet-50 with a feature pyramid, as in torchvision.

    ```
    images ─► resize ─► stem ─► layer1 ─► layer2 ─► layer3 ─► layer4
                                   └─────────┴─────────┴─────────┴─► fpn ─► heads ─► predictions
    ```

    After the cut, the stages that the pyramid reads are also needed; "fpn" consists of all its levels.
    As in torchvision, images of a batch are padded to the size of the largest one, so that predictions can
    depend slightly on the sizes of the other images.

    Mask R-CNN predicts only boxes: there are no mask targets, and its boxes do not depend on the mask branch,
    which is removed, also from the loss. Predictions have no gradient; `features` and `loss` do.

    Args:
        architecture: "fcos", "retinanet", "faster_rcnn" or "mask_rcnn".
        weights: "COCO_V1", a file with a state dict, or None for random weights.
        categories: Class names in the order of the network's labels from 1; None for torchvision's 91 COCO
            labels, which are mapped to COCO's 80 categories.
        cut: "stem", "layer1", …, "layer4" or "fpn"; None for the deepest stage after which no other tensor is
            needed.
        score_threshold: Lowest score of a detection, in [0, 1]; None for the network's default.
        min_size: Length in pixels of the resized shorter side.
        max_size: Maximum length in pixels of the longer side; larger images are resized to this length
            instead.

    Raises:
        ArgumentError: If an argument is out of range.
        WeightsError: If the weights are missing or do not match the network.
    """

    kind = "detection"
    model: Any  # torchvision is untyped
    to_category: Tensor
    architectures: ClassVar[tuple[str, ...]] = tuple(ARCHITECTURES)

    def __init__(
        self,
        architecture: str,
        weights: str | Path | None,
        *,
        categories: Sequence[str] | None = None,
        cut: str | None = None,
        score_threshold: float | None = None,
        min_size: int = 800,
        max_size: int = 1333,
    ) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ArgumentError(
                "architecture", expected=f"one of {', '.join(ARCHITECTURES)}", got=architecture
            )
        if not 1 <= min_size <= max_size:
            raise ArgumentError("min_size", expected=f"in [1, max_size={max_size}] pixels", got=min_size)
        kind = ARCHITECTURES[architecture]
        self.name = architecture
        if categories is None:
            self.categories = COCO_CATEGORIES
            published = get_model_weights(kind.builder).COCO_V1.meta["categories"]
            labels = match_categories(published, COCO_CATEGORIES)
        else:
            self.categories = tuple(categories)
            labels = [-1, *range(len(self.categories))]
        self.register_buffer("to_category", torch.tensor(labels), persistent=False)
        threshold = kind.score_threshold if score_threshold is None else score_threshold
        self.score_threshold = check_between("score_threshold", threshold, 0, 1)
        self.model = build_detector(kind, len(labels), self.score_threshold, Resize(min_size, max_size))
        self.weights_sha256 = load_weights(self.model, weights, torchvision_weights(kind.builder))
        drop_mask_branch(self.model)
        self.min_size, self.max_size = min_size, max_size
        self.cut = self.check_cut(kind.default_cut if cut is None else cut)
        self._pyramid = [f"layer{number}" for number in kind.pyramid]
        self._levels = [*(str(i) for i in range(len(kind.pyramid))), *kind.extra_names]
        self.freeze()

    @property
    def cuts(self) -> tuple[str, ...]:
        """The backbone's stages, and the feature pyramid."""
        return (*STAGES, "fpn")

    def prepare(self, images: Tensor | Sequence[Tensor]) -> Prepared:
        """Resize images and pad them to one size with the mean colour; see `SplitTask.prepare`."""
        batch = image_list(images)
        sizes = tuple((image.shape[-2], image.shape[-1]) for image in batch)
        resized = [self.model.transform.resize(image)[0] for image in batch]
        height, width = self._batch_size(sizes)
        mean = batch[0].new_tensor(self.model.transform.image_mean)[:, None, None]
        inputs = mean.expand(len(resized), 3, height, width).clone()
        for number, image in enumerate(resized):
            inputs[number, :, : image.shape[-2], : image.shape[-1]] = image
        return Prepared(inputs, sizes)

    def reader_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the resized size, or the image's own if that is smaller; see `SplitTask.reader_size`."""
        rows, columns = self.model.transform.resized(height, width)
        return min(rows, height), min(columns, width)

    def resample(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Scale like torchvision's detectors: bilinear, not antialiased; see `SplitTask.resample`."""
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]

    def encode(self, prepared: Prepared) -> Features:
        """Normalize, and run the backbone up to and including `cut`; see `SplitTask.encode`."""
        return self._backbone(self.model.transform.normalize(prepared.inputs), prepared.image_sizes)

    def features(self, images: Tensor | Sequence[Tensor]) -> Features:
        """Return `encode(prepare(images))` up to rounding; torchvision normalizes before it resizes."""
        batch = image_list(images)
        sizes = tuple((image.shape[-2], image.shape[-1]) for image in batch)
        return self._backbone(self.model.transform(batch)[0].tensors, sizes)

    def onward(self, features: Features, cut: str) -> Features:
        """Run the backbone from this task's cut to a later one; see `SplitTask.onward`."""
        last = self.check_later_cut(cut)
        check_features(features, self._needed(self.cut))
        if self.cut == last:
            return features
        outputs = self._stages(features.tensors, self.cut, STAGES[-1] if last == "fpn" else last)
        return self._cut_at(last, outputs, features.image_sizes)

    @torch.no_grad()
    def tail(self, features: Features) -> list[Prediction]:
        """Run the rest of the backbone and the detector's heads; see `SplitTask.tail`."""
        levels = self.onward(features, "fpn").tensors
        check_outputs(levels.values(), self.name)
        resized = [self.model.transform.resized(*size) for size in features.image_sizes]
        height, width = self._batch_size(features.image_sizes)
        # Anchors depend only on the size of the padded batch, not on its pixels.
        canvas = ImageList(torch.empty((len(resized), 3, height, width), device="meta"), resized)
        found = self._detect(OrderedDict(levels), canvas)
        found = self.model.transform.postprocess(found, resized, list(features.image_sizes))
        return [self._detections(result) for result in found]

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """Return the raw outputs of the dense head over the K anchors of all levels; see `SplitTask.outputs`.

        Returns:
            FCOS and RetinaNet: "cls_logits" (N, K, number of labels), "bbox_regression" (N, K, 4), and for
            FCOS "bbox_ctrness" (N, K, 1). Faster and Mask R-CNN: outputs of the region proposal network,
            "objectness" (N, K, 1) and "bbox_regression" (N, K, 4).
        """
        maps = list(self.onward(features, "fpn").tensors.values())
        if not hasattr(self.model, "rpn"):
            return dict(self.model.head(maps))
        objectness, deltas = self.model.rpn.head(maps)
        return {"objectness": _by_anchor(objectness, 1), "bbox_regression": _by_anchor(deltas, 4)}

    def output_divergence(self, found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> Tensor:
        """Compute `vcm.losses.outputs.dense_divergence`; see `SplitTask.output_divergence`.

        FCOS's distances to the four sides are taken relative to the original's box, and its centreness as an
        additional class.
        """
        names = ["objectness"] if hasattr(self.model, "rpn") else ["cls_logits"]
        names += ["bbox_ctrness"] if self.name == "fcos" else []
        check_same_outputs(found, true, [*names, "bbox_regression"])
        (q, q_boxes), (p, p_boxes) = (
            (torch.cat([outputs[name] for name in names], dim=2), outputs["bbox_regression"])
            for outputs in (found, true)
        )
        objectness = true[names[0]].sigmoid().amax(dim=2)
        if self.name == "fcos":
            sides = (p_boxes[..., :2] + p_boxes[..., 2:]).clamp_min(_MIN_DISTANCES).repeat(1, 1, 2)
            q_boxes, p_boxes = q_boxes / sides, p_boxes / sides
            objectness = (objectness * true["bbox_ctrness"][..., 0].sigmoid()).sqrt()
        return dense_divergence(q, p, q_boxes, p_boxes, objectness)

    def loss(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """Return the sum of the detector's training losses; see `SplitTask.loss`.

        Boxes are clipped to their image; crowd regions and boxes without area are skipped. Normalization
        layers stay frozen. Faster and Mask R-CNN sample anchors and proposals with torch's global generator:
        seed it for reproducible values.
        """
        batch = image_list(images)
        to_label = {category: label for label, category in enumerate(self.to_category.tolist())}
        own = []
        for image, target in zip(
            batch, check_targets(targets, BoxTarget, len(batch), len(self.categories)), strict=True
        ):
            boxes, categories = trainable_boxes(target, image.shape[-2], image.shape[-1])
            labels = torch.tensor([to_label[c] for c in categories.tolist()], dtype=torch.int64)
            own.append({"boxes": boxes.to(image), "labels": labels.to(image.device)})
        with asked_for_losses(self.model):
            losses = self.model(batch, own)
        return torch.stack(list(losses.values())).sum()

    def metric(self) -> Metric:
        """Return a metric of COCO average precision."""
        from vcm.metrics.detection import DetectionAccuracy  # takes a second to import

        return DetectionAccuracy()

    def settings(self) -> Settings:
        """Return the settings that determine the predictions."""
        return {
            "name": self.name,
            "task": type(self).__name__,
            "weights_sha256": self.weights_sha256,
            "categories": list(self.categories),
            "cut": self.cut,
            "score_threshold": self.score_threshold,
            "min_size": self.min_size,
            "max_size": self.max_size,
        }

    def _backbone(self, normalized: Tensor, sizes: tuple[tuple[int, int], ...]) -> Features:
        outputs = self._stages({"input": normalized}, "input", STAGES[-1] if self.cut == "fpn" else self.cut)
        return self._cut_at(self.cut, outputs, sizes)

    def _cut_at(self, cut: str, outputs: dict[str, Tensor], sizes: tuple[tuple[int, int], ...]) -> Features:
        """Select the tensors needed after a cut from the stages' outputs."""
        if cut == "fpn":
            return Features(self._pyramid_levels(outputs), sizes)
        return Features({name: outputs[name] for name in self._needed(cut)}, sizes)

    def _batch_size(self, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Return the (height, width) of the network's input for images of these sizes."""
        resized = [self.model.transform.resized(*size) for size in sizes]
        height, width = (-(-max(side) // 32) * 32 for side in zip(*resized, strict=True))
        return height, width

    def _needed(self, cut: str) -> list[str]:
        """Return the names of the tensors needed after a cut, the cut's own first."""
        if cut == "fpn":
            return self._levels
        before = STAGES[: STAGES.index(cut)]
        return [cut, *(name for name in before if name in self._pyramid)]

    def _stages(self, outputs: dict[str, Tensor], after: str, last: str) -> dict[str, Tensor]:
        """Return `outputs` with the outputs of the stages after `after`, up to `last`."""
        body, outputs = self.model.backbone.body, dict(outputs)
        names = ("input", *STAGES)
        for before, stage in pairwise(names[names.index(after) : names.index(last) + 1]):
            x = outputs[before]
            outputs[stage] = (
                body.maxpool(body.relu(body.bn1(body.conv1(x)))) if stage == "stem" else body[stage](x)
            )
        return outputs

    def _pyramid_levels(self, stages: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the feature pyramid; levels have torchvision's names, the finest first."""
        maps = OrderedDict((str(i), stages[name]) for i, name in enumerate(self._pyramid))
        return dict(self.model.backbone.fpn(maps))

    def _detect(self, levels: OrderedDict[str, Tensor], images: ImageList) -> list[dict[str, Tensor]]:
        """Return boxes in pixels of the resized batch, scores and labels."""
        model = self.model
        if hasattr(model, "rpn"):
            proposals, _ = model.rpn(images, levels)
            return list(model.roi_heads(levels, proposals, images.image_sizes)[0])
        maps = list(levels.values())
        anchors = model.anchor_generator(images, maps)
        per_place = model.anchor_generator.num_anchors_per_location()
        counts = [m.shape[-2] * m.shape[-1] * a for m, a in zip(maps, per_place, strict=True)]
        outputs = {name: list(torch.split(t, counts, dim=1)) for name, t in model.head(maps).items()}
        split_anchors = [list(torch.split(a, counts)) for a in anchors]
        return list(model.postprocess_detections(outputs, split_anchors, images.image_sizes))

    def _detections(self, found: dict[str, Tensor]) -> Detections:
        categories = self.to_category[found["labels"]]
        keep = categories >= 0
        return Detections(found["boxes"][keep], found["scores"][keep], categories[keep])


def _by_anchor(levels: Sequence[Tensor], size: int) -> Tensor:
    """Reshape and concatenate levels (N, A·size, h, w) to (N, K, size), with K anchors in total."""
    flat = [x.reshape(len(x), -1, size, *x.shape[-2:]).permute(0, 3, 4, 1, 2).flatten(1, 3) for x in levels]
    return torch.cat(flat, dim=1)
