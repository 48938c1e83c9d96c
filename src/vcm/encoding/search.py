"""Encoder-side search: an image's pixels, refined for a task before BPG encodes them."""

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
"""Largest image that is refined; it takes some 120 bytes of memory a pixel."""
_VERSION = 2
"""Raised when a search finds other pixels; records and the cache's names hold it."""
_MAX_CACHED_BYTES = 1 << 30


@dataclass(frozen=True)
class SearchedImage:
    """What a search found.

    Attributes:
        image: (3, H, W) uint8 RGB, to be encoded.
        cached_s: Seconds of an earlier search, where the image comes from the cache; else 0.
    """

    image: Tensor
    cached_s: float = 0.0


@dataclass(frozen=True)
class ImageSearch:
    """Refine an image's pixels so that what BPG makes of them serves a task better at about the same bits.

    ```
    minimise over x̄:  bits(x̄) / bits(x̄₀) + weight · D(x̂(x̄), x) / D(x̂(x̄₀), x)
    ```

    Bits and the decoded image x̂ are BPG's own at every step. The gradient of D passes straight through the
    codec to x̄; that of the bits is an estimate from 8×8 DCT coefficients (`transform_bits`), scaled to BPG's
    bits. D is `vcm.tasks.distance.image_distance`: the relative error of the task's deep features, and a
    tenth of the divergence of its raw outputs. Adam starts from x̄₀, what would be encoded without a search;
    of all iterates the best one is compared with x̄₀ under the codec itself, so the objective is never worse.
    A step that is not finite ends the search. Nothing is random.

    Args:
        effort: Number of gradient steps, 0 for none, to 10,000.
        task: Whose features and outputs; None takes the system's own task.
        weight: Of the task's relative error beside the relative rate, above 0. With 1, an image keeps about
            its bits.
        feature_share: Of the features' error beside the outputs' divergence, from 0; other networks gain
            by it.
        cache: Folder that keeps refined images, so that other readers' evaluations of the same search do not
            repeat it; None for none.

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
                "search.feature_share", expected="a finite number from 0", got=self.feature_share
            )
        if self.cache is not None and not isinstance(self.cache, (str, Path)):
            raise ArgumentError("search.cache", expected="a folder or null", got=self.cache)
        if self.cache is not None and Path(self.cache).exists() and not Path(self.cache).is_dir():
            raise ArgumentError("search.cache", expected="a folder", got=f"{self.cache}, which is a file")

    def settings(self) -> Settings:
        """What decides the outcome, as plain JSON values; the system's own task is in its records anyway."""
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
            image: x, (3, H, W) uint8 RGB: what the task should see.
            start: x̄₀, of the same shape: x itself, or x preprocessed.
            codec: A `BPGCodec`, not lossless.
            task: Whose features and outputs where none was given to the constructor; a `SplitTask` then.
            offsets: QP offsets, as the codec takes them; None for none.
            block: Side of their blocks in pixels.
            on_step: Called after each step with the steps done and all of them.

        Raises:
            ArgumentError: If the codec or the task is another, the image has more than 2^24 pixels, or shapes
                do not go together.
            CodecError: If it fails on x̄₀.
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
                remedy="Scale it to the reader's size first.",
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
        """A name for everything that decides the outcome."""
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
    """Raise ArgumentError unless a search can be made for this codec."""
    if not isinstance(codec, BPGCodec) or codec.lossless:
        raise ArgumentError(
            "effort",
            expected="0 with another codec than a BPGCodec that is not lossless",
            got=f"a search before {codec!r}",
            remedy="Use bpg, or effort 0.",
        )


def _read_cached(path: Path, image: Tensor) -> SearchedImage | None:
    """What an earlier search left; None if there is none.

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
        raise WeightsError(f"{path}: not a cached search ({error}); delete it.") from error
    return SearchedImage(found, seconds)
