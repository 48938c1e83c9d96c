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
    """What a codec's search for a task lowers: features at the noted guides, and the task's raw outputs.

    Args:
        codec: For the task's features; its model notes the guides.
        task: As `check_fit` takes it.
    """
    heads = [HEADS] if task.has_heads else []
    return feature_objective(task, list(dict.fromkeys([*codec.guides, *heads])))


def encode_for(
    task: SplitTask, codec: FeatureCodec, image: Tensor, on_step: Callable[[int, int], None] | None = None
) -> bytes:
    """Encode an image for a task.

    Args:
        task: As `check_fit` takes it.
        codec: For the task's features.
        image: (3, H, W) uint8 RGB.
        on_step: Called during a search with the steps done and all of them.
    """
    device = task.device
    prepared = task.prepare([image.to(device).float() / 255])
    listener = () if on_step is None else (on_step,)
    return codec.encode(prepared.inputs, (image.shape[1], image.shape[2]), *listener)


def predict_from(task: SplitTask, decoded: tuple[Tensor, tuple[int, int]]) -> Prediction:
    """The task's prediction from decoded features.

    Args:
        task: Cut where the features belong.
        decoded: What `FeatureCodec.decode` gives: features, and the original image's (height, width).
    """
    features, size = decoded
    device = task.device
    return task.tail(Features({task.cut: features.to(device).float()}, (size,)))[0]


@torch.no_grad()
def check_fit(codec: FeatureCodec, task: SplitTask) -> None:
    """Check that a task's features at its cut are those that the codec's model was trained for.

    Raises:
        ArgumentError: If the tail needs several tensors, or channels or stride differ.
    """
    device = task.device
    prepared = task.prepare(torch.zeros(1, 3, 64, 64, device=device))
    features, target = task.cut_feature(prepared), codec.feature_map
    channels, (height, width) = features.shape[1], prepared.inputs.shape[-2:]
    places = (-(-height // target.stride), -(-width // target.stride))  # of the last, a part may be outside
    if channels != target.channels or features.shape[-2:] != places:
        stride = width / features.shape[-1]
        raise ArgumentError(
            "task.cut",
            expected=f"a cut with {target.channels} channels at stride {target.stride}, as the model gives",
            got=f"{task.cut} of {task.name}, with {channels} channels at stride {stride:g}",
            remedy="Take the task and the cut that the model was trained for.",
        )
