"""Pipelines from image to bytes to prediction, one per operating point."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from torch import Tensor

from vcm.codecs import Codec, CodecPool, Failure, RoundTrip, Timed
from vcm.codecs.pool import attempt
from vcm.deprecation import former_names
from vcm.encoding.encoder import ImageEncoder, Preprocessor, ToEncode
from vcm.encoding.reader import Importance, resample_pixels, scale_prediction
from vcm.encoding.search import ImageSearch
from vcm.errors import ArgumentError
from vcm.tasks import Task
from vcm.types import ClassScores, Detections, Prediction, QualityScale, Settings

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Answer:
    """Output of a system for one image.

    Attributes:
        num_bytes: Stream length in bytes, including headers.
        image: Decoded RGB image (3, H, W) at the original size, uint8; None if the system sends no image.
        prediction: The task's prediction on the decoded image or features.
        encode_s: Seconds from image to bytes.
        decode_s: Seconds from bytes to image or features.
        predict_s: Seconds of the task network.
    """

    num_bytes: int
    image: Tensor | None
    prediction: Prediction
    encode_s: float
    decode_s: float
    predict_s: float


class Pipeline(ABC):
    """An operating point: maps images to bytes and predictions.

    Attributes:
        name: Name of the curve of this point.
        title: Display title of the curve.
        quality: Quality on the codec's own scale.
    """

    name: str
    title: str
    quality: float

    @abstractmethod
    def run(self, images: Sequence[Tensor], pool: CodecPool) -> list[Answer | Failure]:
        """Process images and return one answer or failure per image, in order; may use the pool's threads.

        An image's answer does not depend on the other images.
        """

    @abstractmethod
    def settings(self) -> Settings:
        """Return everything that the answers depend on, as plain JSON values."""

    @property
    def scale(self) -> QualityScale | None:
        """Quality scale for `at`; None if the system has a single quality."""
        return None

    def at(self, quality: float) -> Pipeline:
        """Return the same system at another quality.

        Raises:
            ArgumentError: If the system has no other quality.
        """
        raise ArgumentError(
            "quality", expected=f"{self.quality:g}, the only quality of {self.title}", got=quality
        )


class ImagePipeline(Pipeline):
    """Pipeline of an image codec: (scaling) → (preprocessor) → (search) → codec → bytes → codec → task.

    ```
    x ─►(scale to the reader's size)─►(preprocessor)─►(search)─► codec.encode ─► bytes ─► codec.decode ─► x̂
                    └──────(importance ─► QP offsets)──────────────────┘                                  │
    prediction in the original's coordinates ◄──(boxes scaled back)◄── task ◄─────────────────────────────┘
    ```

    The rate is relative to the original's number of pixels. With `at_reader`, the decoded image is scaled
    back to the original size, with the task's interpolation, before it is compared with the original (PSNR,
    MS-SSIM) or shown.

    Args:
        name: Name of the curve.
        codec: Standard codec.
        task: Task network that reads the decoded images.
        preprocessor: Transform before the codec; None for none.
        at_reader: Whether to scale images down to the task's input size; they are never scaled up.
        importance: Settings of importance-based QP offsets; None for none.
        search: Settings of the pixel refinement before a `BPGCodec`; None for none.

    Raises:
        ArgumentError: If `preprocessor` is not a preprocessor, or the codec does not support `importance` or
            `search`.
    """

    def __init__(
        self,
        name: str,
        codec: Codec,
        task: Task,
        *,
        preprocessor: Preprocessor | None = None,
        at_reader: bool = False,
        importance: Importance | None = None,
        search: ImageSearch | None = None,
    ) -> None:
        self.encoder = ImageEncoder(
            codec, task, preprocessor=preprocessor, at_reader=at_reader, importance=importance, search=search
        )
        self.name, self.codec, self.task = name, codec, task
        self.quality = codec.quality
        title, plain_names = codec.title, [codec.name]
        if preprocessor is not None and hasattr(preprocessor, "name") and hasattr(preprocessor, "title"):
            title = f"{preprocessor.title} + {title}"
            plain_names.append(f"{preprocessor.name}_{codec.name}")
        if at_reader:
            title += " at the reader's size"
        ending = ""
        if importance is not None:
            is_predicted = importance.network is not None
            title += ", predicted importance QP" if is_predicted else ", importance QP"
            ending = "_importance_network" if is_predicted else "_importance"
        ending += "_at_reader" * at_reader
        endings = [ending]
        if search is not None:
            title += f", effort {search.effort}"
            endings.append(f"{ending}_effort{search.effort}")
        is_plain = name in [plain + ending for plain in plain_names for ending in endings]
        self.title = title if is_plain else f"{title} ({name})"

    def run(self, images: Sequence[Tensor], pool: CodecPool) -> list[Answer | Failure]:
        """See `Pipeline.run`."""
        prepared = pool.map(partial(attempt, "preprocess", self.encoder.prepare), images)
        ready = [step.value for step in prepared if isinstance(step, Timed)]
        coded = iter(pool.round_trip([item.codec for item in ready], [item.image for item in ready]))
        outcomes = [(step, None if isinstance(step, Failure) else next(coded)) for step in prepared]
        return pool.map(lambda pair: self._answer(*pair), outcomes)

    def _answer(
        self, step: Timed[ToEncode] | Failure, outcome: RoundTrip | Failure | None
    ) -> Answer | Failure:
        """Run the task on a decoded image, or pass on the failure of an earlier step."""
        if isinstance(step, Failure):
            return step
        scaled, size = step.value.scaled, step.value.size
        if not isinstance(outcome, RoundTrip):
            assert outcome is not None, "what was prepared was encoded"
            return replace(outcome, scaled=scaled)
        predicted = attempt("predict", partial(predict, self.task), outcome.image)
        if isinstance(predicted, Failure):
            return replace(predicted, scaled=scaled)
        return Answer(
            num_bytes=len(outcome.data),
            image=resample_pixels(outcome.image, size, self.task),
            prediction=scale_prediction(predicted.value, outcome.image.shape[1:], size),
            encode_s=step.seconds + step.value.cached_s + outcome.encode_s,
            decode_s=outcome.decode_s,
            predict_s=predicted.seconds,
        )

    @property
    def scale(self) -> QualityScale | None:
        """See `Pipeline.scale`; also None if the preprocessor depends on the quality."""
        depends = getattr(self.encoder.preprocessor, "rate", None) is not None
        arguments = list(inspect.signature(type(self.codec).__init__).parameters)[1:]
        is_known = "quality" in arguments and all(hasattr(self.codec, name) for name in arguments)
        return self.codec.quality_scale if is_known and not depends else None

    def at(self, quality: float) -> ImagePipeline:
        """See `Pipeline.at`."""
        arguments = list(inspect.signature(type(self.codec).__init__).parameters)[1:]
        changed = {**{name: getattr(self.codec, name) for name in arguments}, "quality": quality}
        codec = type(self.codec)(**changed)
        return ImagePipeline(
            self.name,
            codec,
            self.task,
            preprocessor=self.encoder.preprocessor,
            at_reader=self.encoder.at_reader,
            importance=self.encoder.importance,
            search=self.encoder.search,
        )

    def settings(self) -> Settings:
        """See `Pipeline.settings` and `ImageEncoder.settings`."""
        system = "picture"  # the name in vcm 0.1, which is part of the keys of its records
        return {"system": system, **self.encoder.settings()}


__getattr__ = former_names(
    __name__, {"PictureSystem": "ImagePipeline", "ImageSystem": "ImagePipeline", "System": "Pipeline"}
)


def predict(task: Task, image: Tensor) -> Prediction:
    """Run a task on one image (3, H, W), uint8, on the task's device."""
    found: list[object] = [*task.predict([image.to(task.device).float() / 255])]
    kind = Detections if task.kind == "detection" else ClassScores
    if len(found) == 1 and isinstance(found[0], kind):
        return found[0]
    raise ArgumentError(
        f"{type(task).__name__}.predict", expected=f"one {kind.__name__} per image", got=found
    )
