"""What is evaluated: something that turns a picture into bytes, and those bytes into a task's answer."""

from __future__ import annotations

import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from vcm.codecs import Codec, CodecPool
from vcm.codecs.pool import RoundTrip
from vcm.errors import ArgumentError
from vcm.tasks import Task
from vcm.types import Prediction, QualityScale, Settings

Item = TypeVar("Item")
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


@dataclass(frozen=True, eq=False)
class Fault:
    """Why a picture has no answer.

    Attributes:
        stage: What failed: "preprocess", "encode", "decode" or "predict".
        error: What was raised.
    """

    stage: str
    error: Exception

    def __str__(self) -> str:
        return f"{self.stage} failed: {type(self.error).__name__}: {self.error}"


@dataclass(frozen=True, eq=False)
class Timed(Generic[Result]):
    """What a step gave, and the seconds it took by the clock."""

    value: Result
    seconds: float


class Preprocessor(Protocol):
    """Changes a picture before a codec encodes it; called from several threads at once.

    It may have a `name`, such as "npp", and a `title`, such as "NPP", for the names of its curves.
    """

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
    def run(self, images: Sequence[Tensor], pool: CodecPool) -> list[Answer | Fault]:
        """One answer or fault a picture, in order; work may go to the pool's threads.

        A picture's answer does not depend on the others in `images`.
        """

    @abstractmethod
    def settings(self) -> Settings:
        """Everything that decides the answers, as plain JSON values."""

    @property
    def scale(self) -> QualityScale | None:
        """Scale of the qualities that `at` takes; None where it takes none."""
        return None

    def at(self, quality: float) -> System:
        """The same system at another quality of its scale.

        Raises:
            ArgumentError: If it has none.
        """
        raise ArgumentError(
            "quality", expected=f"{self.quality:g}, the only one of {self.title}", got=quality
        )


class PictureSystem(System):
    """(Preprocessor) → codec → bytes → codec → task.

    ```
    x ──►(preprocessor)──► codec.encode ──► bytes ──► codec.decode ──► x̂ ──► task ──► prediction
    ```
    """

    def __init__(
        self, name: str, codec: Codec, task: Task, *, preprocessor: Preprocessor | None = None
    ) -> None:
        if preprocessor is not None and not (callable(preprocessor) and hasattr(preprocessor, "settings")):
            raise ArgumentError(
                "preprocessor",
                expected="a callable with a method settings()",
                got=type(preprocessor).__name__,
            )
        self.name, self.codec, self.task, self.preprocessor = name, codec, task, preprocessor
        self.quality = codec.quality
        title, plain_names = codec.title, [codec.name]
        if preprocessor is not None and hasattr(preprocessor, "name") and hasattr(preprocessor, "title"):
            title = f"{preprocessor.title} + {title}"
            plain_names.append(f"{preprocessor.name}_{codec.name}")
        self.title = title if name in plain_names else f"{title} ({name})"

    def run(self, images: Sequence[Tensor], pool: CodecPool) -> list[Answer | Fault]:
        """See `System.run`."""
        prepared = pool.map(self._prepare, images)
        coded = iter(
            pool.round_trip(self.codec, [step.value for step in prepared if isinstance(step, Timed)])
        )
        outcomes = [step if isinstance(step, Fault) else next(coded) for step in prepared]
        decoded = [outcome.image for outcome in outcomes if isinstance(outcome, RoundTrip)]
        predicted = iter(pool.map(partial(attempt, "predict", partial(predict, self.task)), decoded))
        answers: list[Answer | Fault] = []
        for step, outcome in zip(prepared, outcomes, strict=True):
            if isinstance(step, Fault):
                answers.append(step)
            elif not isinstance(outcome, RoundTrip):
                answers.append(Fault(outcome.stage, outcome.error))
            elif isinstance(prediction := next(predicted), Fault):
                answers.append(prediction)
            else:
                answers.append(
                    Answer(
                        num_bytes=len(outcome.data),
                        image=outcome.image,
                        prediction=prediction.value,
                        encode_s=step.seconds + outcome.encode_s,
                        decode_s=outcome.decode_s,
                        predict_s=prediction.seconds,
                    )
                )
        return answers

    @property
    def scale(self) -> QualityScale | None:
        """See `System.scale`; None also where the preprocessor depends on the quality."""
        depends = getattr(self.preprocessor, "rate", None) is not None
        arguments = list(inspect.signature(type(self.codec).__init__).parameters)[1:]
        is_known = "quality" in arguments and all(hasattr(self.codec, name) for name in arguments)
        return self.codec.quality_scale if is_known and not depends else None

    def at(self, quality: float) -> PictureSystem:
        """See `System.at`."""
        arguments = list(inspect.signature(type(self.codec).__init__).parameters)[1:]
        changed = {**{name: getattr(self.codec, name) for name in arguments}, "quality": quality}
        codec = type(self.codec)(**changed)
        return PictureSystem(self.name, codec, self.task, preprocessor=self.preprocessor)

    def _prepare(self, image: Tensor) -> Timed[Tensor] | Fault:
        return (
            Timed(image, 0.0) if self.preprocessor is None else attempt("preprocess", self._preprocess, image)
        )

    def _preprocess(self, image: Tensor) -> Tensor:
        assert self.preprocessor is not None, "asked for only where there is one"
        result = self.preprocessor(image)
        if not isinstance(result, Tensor) or result.shape != image.shape or result.dtype != image.dtype:
            came = (
                f"{tuple(result.shape)} {result.dtype}"
                if isinstance(result, Tensor)
                else type(result).__name__
            )
            raise ArgumentError(
                "preprocessor",
                expected=f"a callable that gives {tuple(image.shape)} {image.dtype} here",
                got=came,
            )
        return result

    def settings(self) -> Settings:
        """See `System.settings`."""
        return {
            "system": "picture",
            "preprocessor": None if self.preprocessor is None else self.preprocessor.settings(),
            "codec": self.codec.settings(),
        }


def predict(task: Task, image: Tensor) -> Prediction:
    """The task's prediction for one (3, H, W) uint8 picture, on the task's device."""
    device = next(task.parameters()).device
    return task.predict([image.to(device).float() / 255])[0]


def attempt(stage: str, function: Callable[[Item], Result], item: Item) -> Timed[Result] | Fault:
    """What the function gives for a picture or stream and the seconds it took, or what it raised."""
    start = time.perf_counter()
    try:
        result = function(item)
    except Exception as error:  # one bad picture must not lose the others
        return Fault(stage, error)
    return Timed(result, time.perf_counter() - start)
