"""Pipeline of a feature codec: no image is sent."""

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
    """Image → the task's input → narrow stream → features → the rest of the task's network.

    ```
    x ─► task.prepare ─► codec.encode ─► bytes ─► codec.decode ─► f̂ ─► task.tail ─► prediction
    ```

    Its rate is over the original image's pixels, like every other system's.

    Args:
        name: The curve's name.
        codec: For the task's features.
        task: A `SplitTask`, cut where the codec's model was trained for.

    Raises:
        ArgumentError: If the task is no `SplitTask`, or its features at its cut are not those that the codec
            decodes to.
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
