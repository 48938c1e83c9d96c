"""Pipeline of a feature codec, which sends no image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from vcm.codecs import CodecPool, Failure, FeatureCodec
from vcm.codecs.pool import attempt
from vcm.deprecation import former_names
from vcm.encoding.features import check_fit, encode_for, predict_from, search_objective
from vcm.evaluation.pipelines import Answer, Pipeline
from vcm.tasks import Task, check_split_task
from vcm.types import Settings


class FeaturePipeline(Pipeline):
    """Pipeline that encodes features for a task network instead of an image.

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

    def run(self, images: Sequence[Tensor], pool: CodecPool) -> list[Answer | Failure]:
        """See `Pipeline.run`."""
        return pool.map(self._answer, images)

    def settings(self) -> Settings:
        """See `Pipeline.settings`."""
        return {"system": "features", "codec": self.codec.settings()}

    def _answer(self, image: Tensor) -> Answer | Failure:
        encoded = attempt("encode", partial(encode_for, self.task, self.codec), image)
        if isinstance(encoded, Failure):
            return encoded
        decoded = attempt("decode", self.codec.decode, encoded.value)
        if isinstance(decoded, Failure):
            return decoded
        predicted = attempt("predict", partial(predict_from, self.task), decoded.value)
        if isinstance(predicted, Failure):
            return predicted
        return Answer(
            num_bytes=len(encoded.value),
            image=None,
            prediction=predicted.value,
            encode_s=encoded.seconds,
            decode_s=decoded.seconds,
            predict_s=predicted.seconds,
        )


__getattr__ = former_names(__name__, {"FeatureSystem": "FeaturePipeline"})
