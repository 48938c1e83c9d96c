"""YOLO detection from Darknet cfg and weights files."""

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
    """YOLOv3, YOLOv3-SPP, YOLOv3-tiny, YOLOv4-tiny and relatives, as Darknet runs them.

    ```
    images ─► letterbox ─► layer0 … layerK ─►(cut)─► layerK+1 … ─► heads ─► boxes ─► NMS per class ─►
    predictions
    ```

    Images are letterboxed and boxes suppressed as in Darknet: a box is a detection of every class of which
    objectness × class probability is above `score_threshold`. Boxes come back in the image's own pixels,
    clipped to it. Predictions carry no gradient; `features`, `raw_outputs` and `loss` do.

    Cuts are named "layer0", "layer1", …: every section after `[net]`, counted as Darknet does.

    Args:
        cfg: A Darknet cfg file, or "yolov3" or "yolov3-spp" for these networks without a file.
        weights: A Darknet weights file, or None for random weights.
        names: A file with one class name a line, or the names; None means COCO's 80.
        cut: Name of the layer after which `features` stops. None takes a feature map at stride 8 that alone
            is needed after it: the first residual sum (layer15 of YOLOv3), or else the last layer.
        input_size: Side of the network's square input in pixels, a multiple of its stride; None takes the
            cfg's.
        score_threshold: Smallest score of a detection, from 0 to 1; 0.005 is what Darknet evaluates with.
        nms_threshold: IoU from which the lower of two boxes of one class is dropped, from 0 to 1.
        max_detections: Most detections an image; COCO's metric looks at 100.

    Raises:
        ArgumentError: If the cfg is malformed or not supported, or another argument is out of range.
        WeightsError: If the weights file does not fit the cfg.
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
                expected=f"{wrong[0]} class names, as the cfg has",
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
        """Every layer of the cfg."""
        return tuple(_name(index) for index in range(len(self.network)))

    @property
    def deepest_cut(self) -> str:
        """The last layer that every head depends on, before their own; see `SplitTask.deepest_cut`."""
        return _name(self.network.last_shared_layer())

    def default_cut(self) -> str:
        """The first residual sum at stride 8 that alone is needed after it, or else the last such layer."""
        alone = [i for i in range(len(self.network)) if self.network.live_after(i) == (i,)]
        near = [i for i in alone if self.network.layer(i).stride == _CUT_STRIDE]
        sums = [i for i in near if isinstance(self.network.layer(i), Shortcut)]
        return _name(sums[0] if sums else (near or alone or [0])[-1])

    def prepare(self, images: Tensor | Sequence[Tensor]) -> Prepared:
        """Letterbox `images`; see `SplitTask.prepare`."""
        batch = image_list(images)
        sizes = tuple((image.shape[-2], image.shape[-1]) for image in batch)
        boxed = [Letterbox(size, self.input_size).apply(x) for size, x in zip(sizes, batch, strict=True)]
        return Prepared(torch.stack(boxed), sizes)

    def reader_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the letterbox's scaled size, or the image's where smaller; see `SplitTask.reader_size`."""
        rows, columns = Letterbox((height, width), self.input_size).scaled_size
        return min(rows, height), min(columns, width)

    def resample(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Scale as the letterbox does: bilinear, corner pixels keep their place; see `SplitTask.resample`."""
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=True)[0]

    def encode(self, prepared: Prepared) -> Features:
        """Run the network up to and including `cut`; see `SplitTask.encode`.

        The tensors after the first are outputs of earlier layers, and raw outputs of detection heads, by
        name.
        """
        live = self.network.run({IMAGE: prepared.inputs}, 0, self._cut_index)
        return Features({_name(index): tensor for index, tensor in live.items()}, prepared.image_sizes)

    def onward(self, features: Features, cut: str) -> Features:
        """Run the layers after `cut` of this task up to another one; see `SplitTask.onward`."""
        last = _index(self.check_later_cut(cut))
        live = self.network.run(self._live(features), self._cut_index + 1, last)
        return Features({_name(index): tensor for index, tensor in live.items()}, features.image_sizes)

    @torch.no_grad()
    def tail(self, features: Features) -> list[Prediction]:
        """Run the rest of the network, and turn its heads' outputs into detections; see `SplitTask.tail`."""
        return self._detections(list(self.outputs(features).values()), features.image_sizes)

    def outputs(self, features: Features) -> dict[str, Tensor]:
        """What goes into each `[yolo]` layer, by the name of the layer before it; see `SplitTask.outputs`.

        Returns:
            (N, A·(5+C), H/s, W/s) for each head, in the cfg's order.
        """
        outputs = self.network.run(self._live(features), self._cut_index + 1, len(self.network) - 1)
        return {_name(index): outputs[index] for index in self.network.head_layers}

    def output_divergence(self, found: Mapping[str, Tensor], true: Mapping[str, Tensor]) -> Tensor:
        """See `vcm.losses.outputs.yolo_divergence` and `SplitTask.output_divergence`."""
        names = [_name(index) for index in self.network.head_layers]
        check_same_outputs(found, true, names)
        return yolo_divergence([found[name] for name in names], [true[name] for name in names], self.heads)

    def raw_outputs(self, images: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """What goes into each `[yolo]` layer: (N, A·(5+C), H/s, W/s), in the cfg's order."""
        outputs: list[Tensor] = self.network(self.prepare(images).inputs)
        return outputs

    def loss(self, images: Tensor | Sequence[Tensor], targets: Sequence[Target]) -> Tensor:
        """YOLO's training loss, summed over heads; see `vcm.losses.yolo.yolo_loss` and `SplitTask.loss`.

        Boxes are clipped to their image; crowd regions and boxes without area are left out.
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
        """COCO's average precision."""
        from vcm.metrics.detection import DetectionAccuracy  # takes a second to import

        return DetectionAccuracy()

    def settings(self) -> Settings:
        """What decides the predictions."""
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
        """Outputs by layer index, checked to be those that are needed after the cut."""
        check_features(features, [_name(index) for index in self.network.live_after(self._cut_index)])
        return {_index(name): tensor for name, tensor in features.tensors.items()}

    def _detections(self, raw: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        check_outputs(raw, self.name)
        boxes, scores = [], []
        for output, head in zip(raw, self.heads, strict=True):
            # Half precision does not resolve pixels, and torchvision's NMS does not take it on the CPU.
            output = output.to(torch.promote_types(output.dtype, torch.float32))  # noqa: PLW2901
            decoded = decode_head(output, head, self.input_size)
            boxes.append(decoded.boxes.flatten(1, 3))
            scores.append((decoded.objectness[..., None].sigmoid() * decoded.classes.sigmoid()).flatten(1, 3))
        return [
            self._suppress(b, s, size)
            for b, s, size in zip(torch.cat(boxes, dim=1), torch.cat(scores, dim=1), sizes, strict=True)
        ]

    def _suppress(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detections:
        """One image's (K, 4) boxes, as fractions of the input, and (K, C) scores → its detections."""
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
