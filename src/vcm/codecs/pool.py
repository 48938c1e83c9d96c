"""Encoding and decoding of many images on threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from vcm.codecs.base import Codec
from vcm.errors import ArgumentError, CodecError
from vcm.validation import check_whole

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor

MAX_WORKERS = 1024
_INTERRUPT_AGAIN_S = 0.05  # a program may start just after the others were told to end


@dataclass(frozen=True, eq=False)
class Encoded:
    """One image's bytes.

    Attributes:
        data: The stream.
        encode_s: Seconds that `encode` took, by the clock.
    """

    data: bytes
    encode_s: float


@dataclass(frozen=True, eq=False)
class Decoded:
    """One stream's image.

    Attributes:
        image: (3, H, W) uint8 RGB.
        decode_s: Seconds that `decode` took, by the clock.
    """

    image: Tensor
    decode_s: float


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """One image's bytes, and what comes back from them.

    Attributes:
        data: The stream.
        image: (3, H, W) uint8 RGB, decoded.
        encode_s: Seconds that `encode` took, by the clock.
        decode_s: Seconds that `decode` took, by the clock.
    """

    data: bytes
    image: Tensor
    encode_s: float
    decode_s: float

    @property
    def num_bits(self) -> int:
        """Bits of the stream, container header and all."""
        return 8 * len(self.data)


@dataclass(frozen=True, eq=False)
class Failure:
    """What went wrong with one image.

    Attributes:
        index: Its place in the batch, from 0.
        stage: Whether encoding or decoding failed.
        error: What was raised, with its traceback.
    """

    index: int
    stage: Literal["encode", "decode"]
    error: Exception


Value = TypeVar("Value", Encoded, Decoded, RoundTrip)
Item = TypeVar("Item")
Result = TypeVar("Result")


class CodecPool:
    """Runs a codec over batches on threads and gives results in the batch's order.

    An image that fails becomes a `Failure` in its place; the others are not lost. `raise_failures` turns the
    first one into an exception. The codecs here release Python's global lock while they work, so two threads
    do about twice as much as one on two cores.

    ```
    with CodecPool(workers=2) as pool:
        for outcome in pool.round_trip(JPEGCodec(quality=50), images):
            ...
    ```

    Args:
        workers: Number of threads, 1 or more.

    Raises:
        ArgumentError: If `workers` is not such a number.
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
        """End the threads; the pool can then no longer be used."""
        self._executor.shutdown(cancel_futures=True)

    def encode(self, codec: Codec, images: Sequence[Tensor]) -> list[Encoded | Failure]:
        """Encode each image.

        Args:
            codec: Used from several threads at once.
            images: (3, H, W) uint8 RGB each, of any sizes.
        """

        def work(index: int, image: Tensor) -> Encoded | Failure:
            try:
                return _encode(codec, image)
            except Exception as error:
                return Failure(index, "encode", error)

        return self._run([codec], work, images)

    def decode(self, codec: Codec, streams: Sequence[bytes]) -> list[Decoded | Failure]:
        """Decode each stream.

        Args:
            codec: Used from several threads at once.
            streams: What `codec.encode` gave.
        """

        def work(index: int, data: bytes) -> Decoded | Failure:
            try:
                return _decode(codec, data)
            except Exception as error:
                return Failure(index, "decode", error)

        return self._run([codec], work, streams)

    def round_trip(
        self, codec: Codec | Sequence[Codec], images: Sequence[Tensor]
    ) -> list[RoundTrip | Failure]:
        """Encode each image and decode it again.

        Args:
            codec: Used from several threads at once; or one for each image.
            images: (3, H, W) uint8 RGB each, of any sizes.
        """
        codecs = [codec] * len(images) if isinstance(codec, Codec) else list(codec)
        if len(codecs) != len(images):
            raise ArgumentError(
                "codec", expected=f"one, or one for each of {len(images)} images", got=len(codecs)
            )

        def work(index: int, image: Tensor) -> RoundTrip | Failure:
            stage: Literal["encode", "decode"] = "encode"
            codec = codecs[index]
            try:
                encoded = _encode(codec, image)
                stage = "decode"
                decoded = _decode(codec, encoded.data)
                if decoded.image.shape != image.shape:
                    sizes = f"{tuple(decoded.image.shape)} came back from {tuple(image.shape)}"
                    raise CodecError(f"{codec.title}: the decoder gave another size: {sizes}.")
            except Exception as error:
                return Failure(index, stage, error)
            return RoundTrip(encoded.data, decoded.image, encoded.encode_s, decoded.decode_s)

        return self._run(codecs, work, images)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Call a function on each item on the pool's threads; results in order, or the first exception."""
        return list(self._executor.map(function, items))

    def _run(
        self,
        codecs: Sequence[Codec],
        work: Callable[[int, Item], Value | Failure],
        items: Sequence[Item],
    ) -> list[Value | Failure]:
        futures: list[Future[Value | Failure]] = []
        try:
            for index, item in enumerate(items):
                futures.append(self._executor.submit(work, index, item))
            return [future.result() for future in futures]
        except BaseException:  # the user's interrupt: what has not begun must not, what runs must end
            for future in futures:
                future.cancel()
            while wait(futures, timeout=_INTERRUPT_AGAIN_S).not_done:
                for codec in dict.fromkeys(codecs):
                    codec.interrupt()
            raise


def _encode(codec: Codec, image: Tensor) -> Encoded:
    start = time.perf_counter()
    data = codec.encode(image)
    return Encoded(data, time.perf_counter() - start)


def _decode(codec: Codec, data: bytes) -> Decoded:
    start = time.perf_counter()
    image = codec.decode(data)
    return Decoded(image, time.perf_counter() - start)


def raise_failures(outcomes: Sequence[Value | Failure]) -> list[Value]:
    """Return the outcomes if none of them is a failure.

    Raises:
        CodecError: For the first failure, naming its place in the batch; the failure's own error is its
            cause.
    """
    values: list[Value] = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise CodecError(
                f"Image {outcome.index} of {len(outcomes)}, counted from 0, failed to {outcome.stage}: "
                f"{outcome.error}"
            ) from outcome.error
        values.append(outcome)
    return values
