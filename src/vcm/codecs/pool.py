"""Encode and decode many images on threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from vcm.codecs.base import Codec
from vcm.deprecation import former_attribute, former_names
from vcm.errors import ArgumentError, CodecError
from vcm.validation import check_whole

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor

MAX_WORKERS = 1024
_INTERRUPT_AGAIN_S = 0.05  # repeated, because a program may start just after the first interrupt


Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class Timed(Generic[Result]):
    """The result of a step and its wall-clock time.

    Attributes:
        value: The result.
        seconds: Duration of the step.
    """

    value: Result
    seconds: float

    data = former_attribute("data", "value")
    image = former_attribute("image", "value")
    encode_s = former_attribute("encode_s", "seconds")
    decode_s = former_attribute("decode_s", "seconds")


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """An image's bitstream and the image decoded from it.

    Attributes:
        data: The bitstream.
        image: (3, H, W) uint8 RGB, decoded.
        encode_s: Wall-clock seconds of `encode`.
        decode_s: Wall-clock seconds of `decode`.
    """

    data: bytes
    image: Tensor
    encode_s: float
    decode_s: float

    @property
    def num_bits(self) -> int:
        """Number of bits of the bitstream, with its container."""
        return 8 * len(self.data)


@dataclass(frozen=True, eq=False)
class Failure:
    """A step that failed on one image.

    Attributes:
        stage: The step, such as "encode" or "decode".
        error: The exception, with its traceback.
        index: Position of the image in its batch, from 0.
        scaled: (height, width) to which the image was scaled before; None if it was not.
    """

    stage: str
    error: Exception
    index: int = 0
    scaled: tuple[int, int] | None = None

    def __str__(self) -> str:
        scaled = "" if self.scaled is None else f" of the image scaled to {self.scaled[0]}x{self.scaled[1]}"
        return f"{self.stage}{scaled} failed: {type(self.error).__name__}: {self.error}"


class CodecPool:
    """Runs a codec on batches with several threads and returns results in order.

    An image that fails gives a `Failure` at its index; the others are unaffected. `raise_failures` turns the
    first failure into an exception. vcm's codecs release Python's global interpreter lock while they work, so
    the throughput grows with the number of threads, up to the number of cores.

    ```
    with CodecPool(workers=2) as pool:
        for outcome in pool.round_trip(JPEGCodec(quality=50), images):
            ...
    ```

    Args:
        workers: Number of threads, in [1, 1024].

    Raises:
        ArgumentError: If `workers` is out of range.
    """

    def __init__(self, workers: int = 2) -> None:
        self.workers = check_whole("workers", workers, 1, MAX_WORKERS)
        self._executor = ThreadPoolExecutor(self.workers, thread_name_prefix="vcm-codec")

    def __enter__(self) -> CodecPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads. The pool cannot be used afterwards."""
        self._executor.shutdown(cancel_futures=True)

    def encode(self, codec: Codec, images: Sequence[Tensor]) -> list[Timed[bytes] | Failure]:
        """Encode images.

        Args:
            codec: Used from several threads at once.
            images: (3, H, W) uint8 RGB each, of any sizes.

        Returns:
            A bitstream or a failure for each image.
        """

        def work(index: int, image: Tensor) -> Timed[bytes] | Failure:
            return attempt("encode", codec.encode, image, index)

        return self._run([codec], work, images)

    def decode(self, codec: Codec, streams: Sequence[bytes]) -> list[Timed[Tensor] | Failure]:
        """Decode bitstreams.

        Args:
            codec: Used from several threads at once.
            streams: Bitstreams from `codec.encode`.

        Returns:
            A (3, H, W) uint8 RGB image or a failure for each bitstream.
        """

        def work(index: int, data: bytes) -> Timed[Tensor] | Failure:
            return attempt("decode", codec.decode, data, index)

        return self._run([codec], work, streams)

    def round_trip(
        self, codec: Codec | Sequence[Codec], images: Sequence[Tensor]
    ) -> list[RoundTrip | Failure]:
        """Encode and decode each image.

        Args:
            codec: One codec, called from several threads at once, or one codec per image.
            images: RGB images (3, H, W), uint8, of any sizes.
        """
        codecs = [codec] * len(images) if isinstance(codec, Codec) else list(codec)
        if len(codecs) != len(images):
            raise ArgumentError(
                "codec", expected=f"one codec, or one for each of {len(images)} images", got=len(codecs)
            )

        def work(index: int, image: Tensor) -> RoundTrip | Failure:
            codec = codecs[index]
            encoded = attempt("encode", codec.encode, image, index)
            if isinstance(encoded, Failure):
                return encoded
            decoded = attempt("decode", codec.decode, encoded.value, index)
            if isinstance(decoded, Failure):
                return decoded
            if decoded.value.shape != image.shape:
                sizes = f"got {tuple(decoded.value.shape)} for {tuple(image.shape)}"
                error = CodecError(f"{codec.title}: the decoded image has the wrong shape: {sizes}.")
                return Failure("decode", error, index)
            return RoundTrip(encoded.value, decoded.value, encoded.seconds, decoded.seconds)

        return self._run(codecs, work, images)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Call a function on each item, using the pool's threads; return results in order.

        Args:
            function: Called from several threads at once.
            items: Arguments, one for each call.
        """
        return list(self._executor.map(function, items))

    def _run(
        self,
        codecs: Sequence[Codec],
        work: Callable[[int, Item], Result | Failure],
        items: Sequence[Item],
    ) -> list[Result | Failure]:
        futures: list[Future[Result | Failure]] = []
        try:
            for index, item in enumerate(items):
                futures.append(self._executor.submit(work, index, item))
            return [future.result() for future in futures]
        except BaseException:  # on Ctrl-C, cancel waiting work and interrupt running work
            for future in futures:
                future.cancel()
            while wait(futures, timeout=_INTERRUPT_AGAIN_S).not_done:
                for codec in dict.fromkeys(codecs):
                    codec.interrupt()
            raise


def attempt(
    stage: str, function: Callable[[Item], Result], item: Item, index: int = 0
) -> Timed[Result] | Failure:
    """Call a function and time it; an exception becomes a `Failure`.

    Args:
        stage: Name of the step, for a failure.
        function: The step.
        item: Argument of the function.
        index: Position of the item in its batch, for a failure.
    """
    start = time.perf_counter()
    try:
        result = function(item)
    except Exception as error:
        return Failure(stage, error, index)
    return Timed(result, time.perf_counter() - start)


def raise_failures(outcomes: Sequence[Result | Failure]) -> list[Result]:
    """Return the outcomes if none of them is a failure.

    Raises:
        CodecError: For the first failure, with its index; the failure's own error is the cause.
    """
    values: list[Result] = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise CodecError(
                f"Image {outcome.index} of {len(outcomes)} (counted from 0) failed to {outcome.stage}: "
                f"{outcome.error}"
            ) from outcome.error
        values.append(outcome)
    return values


__getattr__ = former_names(__name__, {"Encoded": "Timed", "Decoded": "Timed"})
