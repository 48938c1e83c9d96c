"""Encoder-side search: refine an image's pixels for a task before BPG encodes them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vcm.codecs import BPGCodec, Codec
from vcm.codecs.bpg.offsets import checked_offsets
from vcm.encoding.refinement import OnStep, Refinement
from vcm.errors import ArgumentError, WeightsError
from vcm.files import read_bytes, write_bytes
from vcm.provenance import deciding_versions
from vcm.tasks import SplitTask, Task, check_split_task
from vcm.types import Settings
from vcm.validation import check_whole, is_number

MAX_EFFORT = 10_000
MAX_PIXELS = 1 << 24
"""Largest image that is refined; the search takes about 120 bytes of memory per pixel."""
_VERSION = 2
"""Raise it when the search gives different pixels; it is part of records and cache keys."""
_MAX_CACHED_BYTES = 1 << 30


@dataclass(frozen=True)
class SearchedImage:
    """Result of a search.

    Attributes:
        image: RGB image (3, H, W) to encode, uint8.
        cached_s: Duration of the original search in seconds if the image comes from the cache; else 0.
    """

    image: Tensor
    cached_s: float = 0.0


@dataclass(frozen=True)
class ImageSearch:
    """Refine an image's pixels so that its BPG encoding serves a task better at about the same rate.

    ```
    minimise over x̄:  bits(x̄) / bits(x̄₀) + weight · D(x̂(x̄), x) / D(x̂(x̄₀), x)
    ```

    At every step, BPG encodes and decodes the image to obtain the bits and the decoded image x̂. The gradient
    of D passes straight through the codec to x̄; that of the bits is estimated from 8×8 DCT coefficients
    (`transform_bits`) and scaled to BPG's bits. D is `vcm.tasks.distance.image_distance`: the relative error
    of the task's deep features, plus a tenth of the divergence of its raw outputs. Adam starts from x̄₀, the
    image that would be encoded without a search. The best iterate is compared with x̄₀ using the codec
    itself, so that the objective never gets worse. A step that is not finite ends the search. The search is
    deterministic.

    Args:
        effort: Number of gradient steps, in [0, 10000]; 0 for no search.
        task: Task whose features and outputs are preserved; None for the system's own task.
        weight: Weight of the relative task error, above 0; the relative rate has weight 1. With weight 1, the
            size of the stream stays about the same.
        feature_share: Weight of the feature error in the task error, at least 0. Feature errors make the gain
            transfer to other networks.
        cache: Folder for refined images, so that evaluations with other tasks do not repeat the search; None
            for no cache.

    Raises:
        ArgumentError: If an argument is out of range.
    """

    effort: int
    task: SplitTask | None = None
    weight: float = 1.0
    feature_share: float = 1.0
    cache: str | Path | None = None

    def __post_init__(self) -> None:
        check_whole("effort", self.effort, 0, MAX_EFFORT)
        if self.task is not None:
            check_split_task("search.task", self.task, "a search")
        if not is_number(self.weight) or not 0 < self.weight < math.inf:
            raise ArgumentError("search.weight", expected="a finite number above 0", got=self.weight)
        if not is_number(self.feature_share) or not 0 <= self.feature_share < math.inf:
            raise ArgumentError(
                "search.feature_share", expected="a finite number of at least 0", got=self.feature_share
            )
        if self.cache is not None and not isinstance(self.cache, (str, Path)):
            raise ArgumentError("search.cache", expected="a folder or null", got=self.cache)
        if self.cache is not None and Path(self.cache).exists() and not Path(self.cache).is_dir():
            raise ArgumentError("search.cache", expected="a folder", got=f"{self.cache}, which is a file")

    def settings(self) -> Settings:
        """Return the settings as plain JSON values; the system's own task is in the records already."""
        return {
            "version": _VERSION,
            "effort": self.effort,
            "weight": float(self.weight),
            "feature_share": float(self.feature_share),
            "task": None if self.task is None else self.task.settings(),
        }

    def run(
        self,
        image: Tensor,
        start: Tensor,
        codec: Codec,
        task: Task,
        *,
        offsets: Tensor | None = None,
        block: int = 32,
        on_step: OnStep | None = None,
    ) -> SearchedImage:
        """Search for the pixels to encode.

        Args:
            image: Original x, (3, H, W) uint8 RGB, for which the task's features and outputs are computed.
            start: Starting point x̄₀ of the same shape: x itself, or x after the preprocessor.
            codec: A `BPGCodec` that is not lossless.
            task: The system's own task, used if the constructor was given none; must then be a `SplitTask`.
            offsets: QP offsets of the blocks, (⌈H / block⌉, ⌈W / block⌉); None for none.
            block: Block size of the offsets in pixels.
            on_step: Progress callback; receives the steps done and the total.

        Raises:
            ArgumentError: If the codec or the task is not supported, the image has more than 2^24 pixels, or
                shapes do not match.
            CodecError: If the codec fails on x̄₀.
        """
        check_searchable(codec)
        if not self.effort:
            return SearchedImage(start)
        height, width = image.shape[-2:]
        if start.shape != image.shape:
            raise ArgumentError("start", expected=f"shape {tuple(image.shape)}", got=tuple(start.shape))
        if height * width > MAX_PIXELS:
            raise ArgumentError(
                "effort",
                expected=f"0 for an image of more than {MAX_PIXELS:,} pixels",
                got=f"{self.effort} for {width}x{height}",
                remedy="Scale the image to the task's input size first.",
            )
        if offsets is not None:
            offsets = torch.from_numpy(checked_offsets(offsets, height, width, block))
        codec = cast(BPGCodec, codec)
        reader = self.task or check_split_task("task", task, "a search")
        refinement = Refinement(
            reader,
            codec,
            image=image,
            start=start,
            offsets=offsets,
            block=block,
            weight=self.weight,
            feature_share=self.feature_share,
        )
        if self.cache is None:
            return SearchedImage(refinement.run(self.effort, on_step))
        path = Path(self.cache) / f"{self._key(refinement)}.safetensors"
        if (found := _read_cached(path, image)) is not None:
            return found
        begun = time.perf_counter()
        refined = refinement.run(self.effort, on_step)
        content = {"image": refined, "seconds": torch.tensor(time.perf_counter() - begun)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, safetensors.torch.save(content))
        return SearchedImage(refined)

    def _key(self, refinement: Refinement) -> str:
        """Return a hash of everything that the result depends on."""
        described = {
            "search": {**self.settings(), "task": None},
            "task": {name: value for name, value in refinement.task.settings().items() if name != "cut"},
            "codec": refinement.codec.settings(),
            "versions": deciding_versions(),
            "device": refinement.device.type,
            "half": refinement.half,
            "shape": list(refinement.image.shape),
            "block": refinement.block,
        }
        digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
        for tensor in (refinement.image, refinement.start, refinement.offsets):
            digest.update(b"\0" if tensor is None else tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def check_searchable(codec: Codec) -> None:
    """Raise ArgumentError unless the search supports this codec."""
    if not isinstance(codec, BPGCodec) or codec.lossless:
        raise ArgumentError(
            "effort",
            expected="0, because the search supports only BPGCodec, and not lossless",
            got=f"a search before {codec!r}",
            remedy="Use codec=bpg, or set effort to 0.",
        )


def _read_cached(path: Path, image: Tensor) -> SearchedImage | None:
    """Read the result of an earlier search; None if there is none.

    Raises:
        WeightsError: If the file is damaged.
    """
    if not path.exists():
        return None
    try:
        content = safetensors.torch.load(read_bytes(path, limit=_MAX_CACHED_BYTES))
        found, seconds = content["image"], float(content["seconds"])
        if found.shape != image.shape or found.dtype != torch.uint8 or not 0 <= seconds < math.inf:
            raise ValueError(f"{tuple(found.shape)} {found.dtype}, {seconds} s")
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} is not a cached search result ({error}). Delete it.") from error
    return SearchedImage(found, seconds)
