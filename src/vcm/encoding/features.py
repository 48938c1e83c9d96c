"""Feature codecs with the task networks that they serve."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vcm.codecs import FeatureCodec
from vcm.codecs.learned.effort import Objective
from vcm.errors import ArgumentError
from vcm.tasks import SplitTask
from vcm.tasks.distance import HEADS, feature_objective
from vcm.types import Features, Prediction


def search_objective(codec: FeatureCodec, task: SplitTask) -> Objective:
    """Build the objective of a codec's search: distance of the guide features and of the task's raw outputs.

    Args:
        codec: Feature codec; its model records the guides.
        task: Task that satisfies `check_fit`.
    """
    heads = [HEADS] if task.has_heads else []
    return feature_objective(task, list(dict.fromkeys([*codec.guides, *heads])))


def encode_for(
    task: SplitTask, codec: FeatureCodec, image: Tensor, on_step: Callable[[int, int], None] | None = None
) -> bytes:
    """Encode an image for a task.

    Args:
        task: Task that satisfies `check_fit`.
        codec: Feature codec.
        image: RGB image (3, H, W), uint8.
        on_step: Progress callback of the search; receives the steps done and the total.
    """
    device = task.device
    prepared = task.prepare([image.to(device).float() / 255])
    listener = () if on_step is None else (on_step,)
    return codec.encode(prepared.inputs, (image.shape[1], image.shape[2]), *listener)


def predict_from(task: SplitTask, decoded: tuple[Tensor, tuple[int, int]]) -> Prediction:
    """Compute a task's prediction from decoded features.

    Args:
        task: Task with the cut that the features belong to.
        decoded: Features and original (height, width), from `FeatureCodec.decode`.
    """
    features, size = decoded
    device = task.device
    return task.tail(Features({task.cut: features.to(device).float()}, (size,)))[0]


@torch.no_grad()
def check_fit(codec: FeatureCodec, task: SplitTask) -> None:
    """Check that a task's features at its cut match those that the codec's model was trained for.

    Raises:
        ArgumentError: If the task's tail needs several tensors, or if channels or stride differ.
    """
    device = task.device
    prepared = task.prepare(torch.zeros(1, 3, 64, 64, device=device))
    features, target = task.cut_feature(prepared), codec.feature_map
    channels, (height, width) = features.shape[1], prepared.inputs.shape[-2:]
    places = (-(-height // target.stride), -(-width // target.stride))  # rounded up: the last may be partial
    if channels != target.channels or features.shape[-2:] != places:
        stride = width / features.shape[-1]
        raise ArgumentError(
            "task.cut",
            expected=f"a cut with {target.channels} channels at stride {target.stride}, like the codec's",
            got=f"{task.cut} of {task.name}, with {channels} channels at stride {stride:g}",
            remedy="Use the task and the cut that the model was trained for.",
        )
