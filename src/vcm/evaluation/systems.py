"""What is evaluated: something that turns a picture into bytes, and those bytes into a task's answer."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from torch import Tensor

from vcm.codecs import Codec, CodecPool
from vcm.codecs.pool import Failure, RoundTrip
from vcm.tasks import Task
from vcm.types import Prediction, Settings

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Answer:
    """One picture's way through a system.

    Attributes:
        num_bytes: Length of the stream that would be sent, header and all.
        image: (3, H, W) uint8 RGB as decoded; None where the system sends no picture.
        prediction: The task's, from what was decoded.
        encode_s: Seconds from picture to bytes.
        decode_s: Seconds from bytes to picture (or features).
        predict_s: Seconds the task took.
    """

    num_bytes: int
    image: Tensor | None
    prediction: Prediction
    encode_s: float
    decode_s: float
    predict_s: float


class Preprocessor(Protocol):
    """Changes a picture before a codec encodes it."""

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 RGB in, and out in the same size."""

    def settings(self) -> Settings:
        """What makes it what it is, as plain JSON values."""


class System(ABC):
    """An operating point: pictures in, bytes and predictions out.

    Attributes:
        name: The curve this point lies on.
        title: The curve's name for people.
        quality: Where on the curve it lies, in the codec's own scale.
    """

    name: str
    title: str
    quality: float

    @abstractmethod
    def run(self, images: Sequence[Tensor], pool: CodecPool) -> list[Answer | Failure]:
        """One answer or failure a picture, in order; work may go to the pool's threads.

        A picture's answer does not depend on the others in `images`.
        """

    @abstractmethod
    def settings(self) -> Settings:
        """Everything that decides the answers, as plain JSON values."""


class PictureSystem(System):
    """(Preprocessor) → codec → bytes → codec → task.

    ```
    x ──►(preprocessor)──► codec.encode ──► bytes ──► codec.decode ──► x̂ ──► task ──► prediction
    ```
    """

    def __init__(
        self, name: str, codec: Codec, task: Task, *, preprocessor: Preprocessor | None = None
    ) -> None:
        self.name, self.codec, self.task, self.preprocessor = name, codec, task, preprocessor
        self.quality = codec.quality
        self.title = codec.title if name == codec.name else f"{codec.title} ({name})"

    def run(self, images: Sequence[Tensor], pool: CodecPool) -> list[Answer | Failure]:
        """See `System.run`."""
        preprocess_s = [0.0] * len(images)
        if self.preprocessor is not None:
            prepared = [timed(self.preprocessor, image) for image in images]
            images, preprocess_s = [image for image, _ in prepared], [seconds for _, seconds in prepared]
        outcomes = pool.round_trip(self.codec, images)
        decoded = [outcome.image for outcome in outcomes if isinstance(outcome, RoundTrip)]
        predictions = iter(pool.map(lambda image: timed(partial(predict, self.task), image), decoded))
        answers: list[Answer | Failure] = []
        for outcome, extra_s in zip(outcomes, preprocess_s, strict=True):
            if isinstance(outcome, Failure):
                answers.append(outcome)
                continue
            prediction, predict_s = next(predictions)
            answers.append(
                Answer(
                    num_bytes=len(outcome.data),
                    image=outcome.image,
                    prediction=prediction,
                    encode_s=extra_s + outcome.encode_s,
                    decode_s=outcome.decode_s,
                    predict_s=predict_s,
                )
            )
        return answers

    def settings(self) -> Settings:
        """See `System.settings`."""
        return {
            "system": "picture",
            "preprocessor": self.preprocessor.settings() if self.preprocessor else None,
            "codec": self.codec.settings(),
        }


def predict(task: Task, image: Tensor) -> Prediction:
    """The task's prediction for one (3, H, W) uint8 picture, on the task's device."""
    device = next(task.parameters()).device
    return task.predict([image.to(device).float() / 255])[0]


def timed(function: Callable[[Tensor], Result], image: Tensor) -> tuple[Result, float]:
    """What the function gives for a picture, and the seconds it took by the clock."""
    start = time.perf_counter()
    result = function(image)
    return result, time.perf_counter() - start
