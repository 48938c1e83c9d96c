"""YOLO detection with networks from Darknet cfg and weights files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vcm.categories import COCO_CATEGORIES, read_names
from vcm.errors import ArgumentError
from vcm.files import file_sha256
from vcm.losses.outputs import yolo_divergence
from vcm.nn.darknet import IMAGE, Darknet, decode_head, parse_cfg, read_cfg, read_weights, yolov3_cfg
from vcm.nn.darknet.layers import Shortcut
from vcm.nn.weights import state_sha256
from vcm.tasks.checks import (
    check_features,
    check_outputs,
    check_same_outputs,
    check_targets,
    image_list,
    trainable_boxes,
)
from vcm.tasks.letterbox import Letterbox
from vcm.tasks.split import SplitTask
from vcm.types import BoxTarget, Detections, Features, Prediction, Prepared, Settings, Target
from vcm.validation import check_between, check_whole

if TYPE_CHECKING:
    from torchmetrics import Metric

_BUILTIN = {"yolov3": False, "yolov3-spp": True}
_CUT_STRIDE = 8


class YOLOTask(SplitTask):
    """YOLOv3, YOLOv3-SPP, YOLOv3-tiny, YOLOv4-tiny and similar networks, as in Darknet.

    ```
    images ─► letterbox ─► layer0 … layerK ─►(cut)─► layerK+1 … ─► heads ─► boxes ─► NMS per class ─►
    predictions
    ```

    Letterboxing and non-maximum suppression are those of Darknet: a box becomes a detection of every class
    with objectness × class probability above `score_threshold`. Boxes are in pixels of the image, and clipped
    to it. Predictions have no gradient; `features`, `raw_outputs` and `loss` do.

    Cuts are named "layer0", "layer1", …: the sections after `[net]`, numbered as in Darknet.

    Args:
        cfg: Darknet cfg file; or "yolov3" or "yolov3-spp", which need no file.
        weights: Darknet weights file; None for random weights.
        names: File with one class name per line, or a sequence of names; None for COCO's 80.
        cut: Name of the layer after which `features` stops. None for the first residual sum at stride 8 after
            which no other tensor is needed (layer15 of YOLOv3), or else the last such layer, at stride 8 if
            possible.
        input_size: Side of the network's square input in pixels, a multiple of its stride; None for the cfg's
            size.
        score_threshold: Lowest score of a detection, in [0, 1]; Darknet evaluates with 0.005.
        nms_threshold: IoU above which the lower-scored of two boxes of a class is removed, in [0, 1].
        max_detections: Maximum number of detections per image; COCO's metric uses 100.

    Raises:
        ArgumentError: If the cfg is malformed or unsupported, or another argument is out of range.
        WeightsError: If the weights file does not match the cfg.
    """

    kind = "detection"

    def __init__(
        self,
        cfg: str | Path,
        weights: str | Path | None = None,
        *,
        names: str | Path | Sequence[str] | None = None,
        cut: str | None = None,
        input_size: int | None = None,
        score_threshold: float = 0.005,
        nms_threshold: float = 0.45,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        if isinstance(names, (str, Path)):
            self.categories = read_names(names)
        else:
            self.categories = COCO_CATEGORIES if names is None else tuple(names)
        if builtin := str(cfg) in _BUILTIN:
            text = yolov3_cfg(len(self.categories), spp=_BUILTIN[str(cfg)])
        else:
            text = read_cfg(cfg)
        self.name = str(cfg) if builtin else Path(cfg).stem
        self.cfg_sha256 = hashlib.sha256(text.encode()).hexdigest()
        self.network = Darknet(parse_cfg(text))
        self.heads = self.network.heads
        if wrong := [h.num_classes for h in self.heads if h.num_classes != len(self.categories)]:
            raise ArgumentError(
                "names",
                expected=f"{wrong[0]} class names, as in the cfg",
                got=f"{len(self.categories)} names",
            )
        if weights is not None:
            read_weights(self.network, weights)
        self.weights_sha256 = (
            state_sha256(self.network.state_dict()) if weights is None else file_sha256(weights)
        )
        self.input_size = (self.network.height, self.network.width)
        if input_size is not None:
            check_whole("input_size", input_size, 1)
            if input_size % self.network.stride:
                raise ArgumentError(
                    "input_size", expected=f"a multiple of {self.network.stride} pixels", got=input_size
                )
            self.input_size = (input_size, input_size)
        self.cut = self.check_cut(self.default_cut() if cut is None else cut)
        self.score_threshold = check_between("score_threshold", score_threshold, 0, 1)
        self.nms_threshold = check_between("nms_threshold", nms_threshold, 0, 1)
        self.max_detections = check_whole("max_detections", max_detections, 1)
        self.network.fold()
        self.freeze()

    @property
    def cuts(self) -> tuple[str, ...]:
        """All layers of the cfg."""
        return tuple(_name(index) for index in range(len(self.network)))

    @property
    def deepest_cut(self) -> str:
        """The last layer that every head depends on; see `SplitTask.deepest_cut`."""
        return _name(self.network.last_shared_layer())

    def default_cut(self) -> str:
        """Return the default cut: the first residual sum at stride 8 after which no other tensor is needed,
        or else the last such layer, at stride 8 if possible.
        """
        alone = [i for i in range(len(self.network)) if self.network.live_after(i) == (i,)]
        near = [i for i in alone if self.network.layer(i).stride == _CUT_STRIDE]
        sums = [i for i in near if isinstance(self.network.layer(i), Shortcut)]
        return _name(sums[0] if sums else (near or alone or [0])[-1])

    def prepare(self, images: Tensor | Sequence[Tensor]) -> Prepared:
        """Letterbox images; see `SplitTask.prepare`."""
        batch = image_list(images)
        sizes = tuple((image.shape[-2], image.shape[-1]) for image in batch)
        boxed = [Letterbox(size, self.input_size).apply(x) for size, x in zip(sizes, batch, strict=True)]
        return Prepared(torch.stack(boxed), sizes)

    def reader_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the letterboxed size, or the image's own if that is smaller; see `SplitTask.reader_size`."""
        rows, columns = Letterbox((height, width), self.input_size).scaled_size
        return min(rows, height), min(columns, width)

    def resample(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Scale like the letterbox: bilinear with aligned corners; see `SplitTask.resample`."""
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=True)[0]

    def encode(self, prepared: Prepared) -> Features:
        """Run the network up to and including `cut`; see `SplitTask.encode`.

        Further tensors are outputs of earlier layers and raw outputs of detection heads, by name.
        """
        live = self.network.run({IMAGE: prepared.inputs}, 0, self._cut_index)
        return Features({_name(index): tensor for index, tensor in live.items()}, prepared.image_sizes)

    def onward(self, features: Features, cut: str) -> Features:
        """Run the layers from this task's cut to a later one; see `SplitTask.onward`."""
        last = _index(self.check_later_cut(cut))
        live = self.network.run(self._live(features), self._cut_index + 1, last)
        return Features({_name(index): tensor for index, tensor in live.items()}, features.image_sizes)

    @torch.no_grad()
    def tail(self, features: Features) -> list[Prediction]:
        """Run the rest of the network and convert its raw outputs to detections; see `SplitTask.tail`."""
        return self._detections(list(self.outputs(features).values()), features.image_sizes)

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """Return the input of each `[yolo]` layer, by the name of the layer before; see `SplitTask.outputs`.

        Returns:
            (N, A·(5+C), H/s, W/s) for each head, in the cfg's order.
        """
        outputs = self.network.run(self._live(features), self._cut_index + 1, len(self.network) - 1)
        return {_name(index): outputs[index] for index in self.network.head_layers}

    def output_divergence(self, found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> Tensor:
        """Compute `vcm.losses.outputs.yolo_divergence`; see `SplitTask.output_divergence`."""
        names = [_name(index) for index in self.network.head_layers]
        check_same_outputs(found, true, names)
        return yolo_divergence([found[name] for name in names], [true[name] for name in names], self.heads)

    def raw_outputs(self, images: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """Return the input of each `[yolo]` layer, (N, A·(5+C), H/s, W/s), in the order of the cfg."""
        outputs: list[Tensor] = self.network(self.prepare(images).inputs)
        return outputs

    def loss(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """Compute YOLO's training loss, summed over heads; see `vcm.losses.yolo.yolo_loss`, `SplitTask.loss`.

        Boxes are clipped to their image; crowd regions and boxes without area are skipped.
        """
        from vcm.losses.yolo import yolo_loss

        raw = self.raw_outputs(images)
        device = raw[0].device
        boxes, labels = [], []
        for image, target in zip(
            images, check_targets(targets, BoxTarget, len(raw[0]), len(self.categories)), strict=True
        ):
            size = (image.shape[-2], image.shape[-1])
            corners, classes = trainable_boxes(target, *size)
            boxes.append(Letterbox(size, self.input_size).boxes_to_input(corners.to(device)))
            labels.append(classes.to(device))
        losses = [
            yolo_loss(output, head, boxes, labels, self.input_size)
            for output, head in zip(raw, self.heads, strict=True)
        ]
        return torch.stack(losses).sum()

    def metric(self) -> Metric:
        """Return a metric of COCO average precision."""
        from vcm.metrics.detection import DetectionAccuracy  # takes a second to import

        return DetectionAccuracy()

    def settings(self) -> Settings:
        """Return the settings that determine the predictions."""
        return {
            "name": self.name,
            "task": type(self).__name__,
            "cfg_sha256": self.cfg_sha256,
            "weights_sha256": self.weights_sha256,
            "categories": list(self.categories),
            "cut": self.cut,
            "input_size": list(self.input_size),
            "score_threshold": self.score_threshold,
            "nms_threshold": self.nms_threshold,
            "max_detections": self.max_detections,
        }

    @property
    def _cut_index(self) -> int:
        return _index(self.cut)

    def _live(self, features: Features) -> dict[int, Tensor]:
        """Return features by layer index, after checking that they are exactly those needed after the cut."""
        check_features(features, [_name(index) for index in self.network.live_after(self._cut_index)])
        return {_index(name): tensor for name, tensor in features.tensors.items()}

    def _detections(self, raw: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        check_outputs(raw, self.name)
        boxes, scores = [], []
        for output, head in zip(raw, self.heads, strict=True):
            # Half precision cannot represent pixel positions, and torchvision's NMS does not support it on
            # CPU.
            output = output.to(torch.promote_types(output.dtype, torch.float32))  # noqa: PLW2901
            decoded = decode_head(output, head, self.input_size)
            boxes.append(decoded.boxes.flatten(1, 3))
            scores.append((decoded.objectness[..., None].sigmoid() * decoded.classes.sigmoid()).flatten(1, 3))
        return [
            self._suppress(b, s, size)
            for b, s, size in zip(torch.cat(boxes, dim=1), torch.cat(scores, dim=1), sizes, strict=True)
        ]

    def _suppress(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detections:
        """Convert one image's boxes (K, 4), as fractions of the input, and scores (K, C) to detections."""
        from torchvision.ops import clip_boxes_to_image, nms

        corners = Letterbox(size, self.input_size).boxes_to_image(boxes)
        box, label = (scores > self.score_threshold).nonzero(as_tuple=True)
        score, corners = scores[box, label], corners[box]
        kept = [torch.empty(0, dtype=torch.int64, device=boxes.device)]
        for category in label.unique():  # type: ignore[no-untyped-call]  # torch has no types for it
            members = (label == category).nonzero()[:, 0]
            kept.append(members[nms(corners[members], score[members], self.nms_threshold)])
        keep = torch.cat(kept)
        keep = keep[score[keep].argsort(descending=True, stable=True)[: self.max_detections]]
        return Detections(clip_boxes_to_image(corners[keep], size), score[keep], label[keep])


def _name(index: int) -> str:
    return f"layer{index}"


def _index(name: str) -> int:
    return int(name.removeprefix("layer"))
