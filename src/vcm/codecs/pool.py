"""Encode and decode many images on threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from vcm.codecs.base import Codec
from vcm.codecs.options import check_whole
from vcm.errors import ArgumentError, CodecError

if TYPE_CHECKING:
    from types import TracebackType

    from torch import Tensor

MAX_WORKERS = 1024
_INTERRUPT_AGAIN_S = 0.05  # repeated, because a program may start just after the first interrupt


@dataclass(frozen=True, eq=False)
class Encoded:
    """Result of encoding one image.

    Attributes:
        data: The stream.
        encode_s: Wall-clock time of `encode` in seconds.
    """

    data: bytes
    encode_s: float


@dataclass(frozen=True, eq=False)
class Decoded:
    """Result of decoding one stream.

    Attributes:
        image: RGB image (3, H, W), uint8.
        decode_s: Wall-clock time of `decode` in seconds.
    """

    image: Tensor
    decode_s: float


@dataclass(frozen=True, eq=False)
class RoundTrip:
    """Result of encoding and decoding one image.

    Attributes:
        data: The stream.
        image: Decoded RGB image (3, H, W), uint8.
        encode_s: Wall-clock time of `encode` in seconds.
        decode_s: Wall-clock time of `decode` in seconds.
    """

    data: bytes
    image: Tensor
    encode_s: float
    decode_s: float

    @property
    def num_bits(self) -> int:
        """Length of the stream in bits, including headers."""
        return 8 * len(self.data)


@dataclass(frozen=True, eq=False)
class Failure:
    """Failure of one image.

    Attributes:
        index: Index of the image in the batch, from 0.
        stage: "encode" or "decode".
        error: The exception, with its traceback.
    """

    index: int
    stage: Literal["encode", "decode"]
    error: Exception


Value = TypeVar("Value", Encoded, Decoded, RoundTrip)
Item = TypeVar("Item")
Result = TypeVar("Result")


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

    def encode(self, codec: Codec, images: Sequence[Tensor]) -> list[Encoded | Failure]:
        """Encode each image.

        Args:
            codec: Codec, called from several threads at once.
            images: RGB images (3, H, W), uint8, of any sizes.
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
            codec: Codec, called from several threads at once.
            streams: Streams of this codec.
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
            stage: Literal["encode", "decode"] = "encode"
            codec = codecs[index]
            try:
                encoded = _encode(codec, image)
                stage = "decode"
                decoded = _decode(codec, encoded.data)
                if decoded.image.shape != image.shape:
                    sizes = f"got {tuple(decoded.image.shape)} for {tuple(image.shape)}"
                    raise CodecError(f"{codec.title}: the decoded image has the wrong shape: {sizes}.")
            except Exception as error:
                return Failure(index, stage, error)
            return RoundTrip(encoded.data, decoded.image, encoded.encode_s, decoded.decode_s)

        return self._run(codecs, work, images)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Call a function on each item, using the pool's threads; return results in order."""
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
        except BaseException:  # on Ctrl-C, cancel waiting work and interrupt running work
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
        CodecError: For the first failure, with its index; the failure's own error is the cause.
    """
    values: list[Value] = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise CodecError(
                f"Image {outcome.index} of {len(outcomes)} (counted from 0) failed to {outcome.stage}: "
                f"{outcome.error}"
            ) from outcome.error
        values.append(outcome)
    return values
