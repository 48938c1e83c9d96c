"""Argument validation shared by tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from vcm.errors import ArgumentError, WeightsError
from vcm.types import BoxTarget, ClassTarget, Features, Target

MIN_BOX_SIDE = 0.01
"""Shortest side in pixels of a box that a loss accepts; float32 resolves 0.001 at coordinate 10,000."""

PIXEL_OVERSHOOT = 0.5
"""Tolerance of pixel values outside [0, 1], because outputs of networks overshoot a little."""

TargetT = TypeVar("TargetT", BoxTarget, ClassTarget)


def check_targets(
    targets: Sequence[Target], kind: type[TargetT], num_images: int, num_classes: int
) -> list[TargetT]:
    """Validate that targets match the images and the task.

    Args:
        targets: The targets.
        kind: `BoxTarget` or `ClassTarget`.
        num_images: Number of images.
        num_classes: Number of classes of the task.

    Raises:
        ArgumentError: If there is not one target of this kind per image, or a label is out of range.
    """
    if len(targets) != num_images:
        raise ArgumentError("targets", expected=f"one per image, {num_images} in total", got=len(targets))
    checked = []
    for target in targets:
        if not isinstance(target, kind):
            raise ArgumentError("targets", expected=f"{kind.__name__} objects", got=type(target).__name__)
        labels = [target.label] if isinstance(target, ClassTarget) else target.labels.tolist()
        if wrong := [label for label in labels if not 0 <= label < num_classes]:
            raise ArgumentError(
                "labels",
                expected=f"in [0, {num_classes - 1}], as indices into the task's categories",
                got=wrong[0],
                remedy="Map the dataset's categories to the task's with vcm.categories.match_categories.",
            )
        checked.append(target)
    return checked


def check_features(features: Features, needed: Sequence[str]) -> None:
    """Raise ArgumentError unless `features` contains exactly the tensors `needed` after the cut, for as many
    images as it has sizes.
    """
    if set(features.tensors) != set(needed):
        raise ArgumentError(
            "features",
            expected=f"the tensors needed after the cut: {', '.join(needed)}",
            got=", ".join(features.tensors) or "none",
            remedy="Pass the output of features() of a task with the same cut; its tensors may be replaced.",
        )
    batches = {name: len(tensor) for name, tensor in features.tensors.items()}
    if set(batches.values()) != {len(features.image_sizes)}:
        raise ArgumentError(
            "features",
            expected=f"tensors for {len(features.image_sizes)} images, as in image_sizes",
            got=batches,
        )


def check_same_outputs(found: Mapping[str, Tensor], true: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Check that two sets of raw outputs have the given names and equal shapes.

    Raises:
        ArgumentError: If names or shapes differ.
    """
    for argument, outputs in (("found", found), ("true", true)):
        if set(outputs) != set(names):
            raise ArgumentError(
                argument,
                expected=f"raw outputs with the names {', '.join(names)}",
                got=", ".join(outputs) or "none",
                remedy="Pass the result of outputs() of this task.",
            )
    for name in names:
        if found[name].shape != true[name].shape:
            raise ArgumentError(
                f"found[{name!r}]",
                expected=f"of the same shape as true[{name!r}], {tuple(true[name].shape)}",
                got=tuple(found[name].shape),
            )


def check_outputs(outputs: Iterable[Tensor], name: str) -> None:
    """Check that a network's outputs are finite, because NaN would result in an empty prediction.

    Args:
        outputs: Output tensors.
        name: Name of the network.

    Raises:
        WeightsError: If a value is NaN or infinite.
    """
    if not all(output.isfinite().all() for output in outputs):
        raise WeightsError(
            f"{name} returned NaN or infinite values: its weights or its input features are damaged."
        )


def trainable_boxes(target: BoxTarget, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the boxes of a target that a detector can be trained with, and their labels.

    Crowd regions are removed. Boxes are clipped to the image, and removed if a side is shorter than 0.01
    pixels or a coordinate is NaN.

    Args:
        target: Ground truth of the image.
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        Boxes (M, 4), x1 y1 x2 y2 in pixels, and labels (M,).
    """
    from torchvision.ops import clip_boxes_to_image

    boxes = clip_boxes_to_image(target.boxes.reshape(-1, 4), (height, width))
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX_SIDE).all(dim=1) & ~target.is_crowd
    return boxes[keep], target.labels[keep]


def image_list(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Split a batch into a list of images (3, H, W), and validate them.

    Raises:
        ArgumentError: If there are no images, or one is not a float tensor (3, H, W) with finite pixels
            within 0.5 of [0, 1].
    """
    batch = list(images)
    for image in batch:
        if not isinstance(image, Tensor):
            raise ArgumentError("images", expected="torch tensors", got=type(image).__name__)
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape or not image.is_floating_point():
            raise ArgumentError(
                "images",
                expected="float (N, 3, H, W), or a sequence of (3, H, W), RGB in [0, 1]",
                got=f"{tuple(image.shape)} {image.dtype}",
            )
        low, high = (value.item() for value in image.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ArgumentError("images", expected="finite, RGB in [0, 1]", got="NaN or infinite pixels")
        if low < -PIXEL_OVERSHOOT or high > 1 + PIXEL_OVERSHOOT:
            raise ArgumentError(
                "images",
                expected=f"RGB in [0, 1], with a tolerance of {PIXEL_OVERSHOOT}",
                got=f"pixels from {low:.4g} to {high:.4g}",
                remedy="Divide pixels in [0, 255] by 255, and clamp outputs of networks.",
            )
    if not batch:
        raise ArgumentError("images", expected="at least one image", got="none")
    return batch
