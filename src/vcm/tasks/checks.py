"""Argument checks shared by tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from vcm.errors import ArgumentError, WeightsError
from vcm.types import BoxTarget, ClassTarget, Features, Target

MIN_BOX_SIDE = 0.01
"""Shortest side, in pixels, of a box that a loss takes; float32 resolves 0.001 at coordinate 10,000."""

PIXEL_OVERSHOOT = 0.5
"""How far outside [0, 1] a pixel may be: a network's output overshoots a little."""

TargetT = TypeVar("TargetT", BoxTarget, ClassTarget)


def check_targets(
    targets: Sequence[Target], kind: type[TargetT], num_images: int, num_classes: int
) -> list[TargetT]:
    """Return `targets` if they fit the images and the task.

    Args:
        targets: What came.
        kind: `BoxTarget` or `ClassTarget`.
        num_images: Number of images.
        num_classes: Number of classes of the task.

    Raises:
        ArgumentError: If there is not one of the right kind an image, or a label is outside the task's
            classes.
    """
    if len(targets) != num_images:
        raise ArgumentError("targets", expected=f"one an image, {num_images} in all", got=len(targets))
    checked = []
    for target in targets:
        if not isinstance(target, kind):
            raise ArgumentError("targets", expected=f"{kind.__name__} records", got=type(target).__name__)
        labels = [target.label] if isinstance(target, ClassTarget) else target.labels.tolist()
        if wrong := [label for label in labels if not 0 <= label < num_classes]:
            raise ArgumentError(
                "labels",
                expected=f"from 0 to {num_classes - 1}, indices into the task's categories",
                got=wrong[0],
                remedy="Map the data set's categories to the task's with vcm.categories.match_categories.",
            )
        checked.append(target)
    return checked


def check_features(features: Features, needed: Sequence[str]) -> None:
    """Raise ArgumentError unless `features` holds exactly the tensors that are `needed` after the cut, of as
    many images as it has sizes.
    """
    if set(features.tensors) != set(needed):
        raise ArgumentError(
            "features",
            expected=f"the tensors that are needed after the cut: {', '.join(needed)}",
            got=", ".join(features.tensors) or "none",
            remedy="Give what features() of a task with the same cut returns, replacing tensors by name.",
        )
    batches = {name: len(tensor) for name, tensor in features.tensors.items()}
    if set(batches.values()) != {len(features.image_sizes)}:
        raise ArgumentError(
            "features",
            expected=f"tensors of {len(features.image_sizes)} images, as image_sizes has",
            got=batches,
        )


def check_same_outputs(found: Mapping[str, Tensor], true: Mapping[str, Tensor], names: Sequence[str]) -> None:
    """Check that two sets of raw outputs have these names and equal shapes.

    Raises:
        ArgumentError: If names or shapes differ.
    """
    for argument, outputs in (("found", found), ("true", true)):
        if set(outputs) != set(names):
            raise ArgumentError(
                argument,
                expected=f"raw outputs by name: {', '.join(names)}",
                got=", ".join(outputs) or "none",
                remedy="Pass what outputs() of this task returned.",
            )
    for name in names:
        if found[name].shape != true[name].shape:
            raise ArgumentError(
                f"found[{name!r}]",
                expected=f"of the shape of true[{name!r}], {tuple(true[name].shape)}",
                got=tuple(found[name].shape),
            )


def check_outputs(outputs: Iterable[Tensor], name: str) -> None:
    """Check what a network gives, from which NaN would make an empty prediction.

    Args:
        outputs: Tensors.
        name: The network's.

    Raises:
        WeightsError: If a value is NaN or infinite.
    """
    if not all(output.isfinite().all() for output in outputs):
        raise WeightsError(
            f"{name} gives NaN or infinite values: its weights or the features that it was given are damaged."
        )


def trainable_boxes(target: BoxTarget, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes that a detector can be trained with, and their labels.

    Crowd regions are left out; boxes are clipped to the image, and left out where less than 0.01 pixel a
    side remains or a coordinate is NaN.

    Args:
        target: What is true of the image.
        height: The image's height in pixels.
        width: The image's width in pixels.

    Returns:
        (M, 4) x1 y1 x2 y2 in pixels, and (M,) labels.
    """
    from torchvision.ops import clip_boxes_to_image

    boxes = clip_boxes_to_image(target.boxes.reshape(-1, 4), (height, width))
    keep = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX_SIDE).all(dim=1) & ~target.is_crowd
    return boxes[keep], target.labels[keep]


def image_list(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Split a batch into a list of (3, H, W) images.

    Raises:
        ArgumentError: If any is not a float (3, H, W) tensor or has pixels that are NaN, infinite, or far
            outside [0, 1]; or there is none.
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
                expected=f"RGB in [0, 1], {PIXEL_OVERSHOOT} beyond it at most",
                got=f"pixels from {low:.4g} to {high:.4g}",
                remedy="Divide pixels of 0 to 255 by 255; clamp a network's output.",
            )
    if not batch:
        raise ArgumentError("images", expected="at least one image", got="none")
    return batch
