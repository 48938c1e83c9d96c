"""Pipeline of a feature codec, which sends no image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from vcm.codecs import CodecPool, FeatureCodec
from vcm.codecs.learned.effort import Objective
from vcm.errors import ArgumentError
from vcm.evaluation.systems import Answer, Fault, System, attempt
from vcm.tasks import SplitTask, Task, check_split_task
from vcm.tasks.distance import HEADS, feature_objective
from vcm.types import Features, Prediction, Settings


class FeatureSystem(System):
    """System that encodes features for a task network instead of an image.

    ```
    x ─► task.prepare ─► codec.encode ─► bytes ─► codec.decode ─► f̂ ─► task.tail ─► prediction
    ```

    As in every system, the rate is relative to the original image's number of pixels.

    Args:
        name: Name of the curve.
        codec: Feature codec.
        task: A `SplitTask` with the cut that the codec's model was trained for.

    Raises:
        ArgumentError: If the task is not a `SplitTask`, or its features at the cut do not match the codec's.
    """

    def __init__(self, name: str, codec: FeatureCodec, task: Task) -> None:
        task = check_split_task("task", task, "a feature codec")
        check_fit(codec, task)
        if codec.effort and codec.objective is None:
            codec.objective = search_objective(codec, task)
        self.name, self.codec, self.task = name, codec, task
        self.quality = codec.quality
        title, names = codec.title, [codec.name]
        if codec.effort:
            title += f", effort {codec.effort}"
            names.append(f"{codec.name}_effort{codec.effort}")
        self.title = title if name in names else f"{title} ({name})"

    def run(self, images: Sequence[Tensor], pool: CodecPool) -> list[Answer | Fault]:
        """See `System.run`."""
        return pool.map(self._answer, images)

    def settings(self) -> Settings:
        """See `System.settings`."""
        return {"system": "features", "codec": self.codec.settings()}

    def _answer(self, image: Tensor) -> Answer | Fault:
        encoded = attempt("encode", partial(encode_for, self.task, self.codec), image)
        if isinstance(encoded, Fault):
            return encoded
        decoded = attempt("decode", self.codec.decode, encoded.value)
        if isinstance(decoded, Fault):
            return decoded
        predicted = attempt("predict", partial(predict_from, self.task), decoded.value)
        if isinstance(predicted, Fault):
            return predicted
        return Answer(
            num_bytes=len(encoded.value),
            image=None,
            prediction=predicted.value,
            encode_s=encoded.seconds,
            decode_s=decoded.seconds,
            predict_s=predicted.seconds,
        )


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
