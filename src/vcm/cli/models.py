"""Model files with their task networks."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from vcm import tasks
from vcm.cli.devices import choose_device
from vcm.cli.errors import user_message
from vcm.cli.paths import RECONSTRUCTION, VIEWING, shown_task
from vcm.codecs import LearnedCodec, SlimmableFeatureCodec
from vcm.codecs.base import check_image
from vcm.codecs.learned.container import FINGERPRINT_BYTES, Header
from vcm.data.assets import asset_file
from vcm.encoding.features import check_fit, encode_for, predict_from, search_objective
from vcm.errors import ArgumentError, BitstreamError, WeightsError
from vcm.nn.serialization import read_json, read_notes
from vcm.nn.slimmable import load_network
from vcm.tasks import SplitTask
from vcm.types import Prediction
from vcm.weights import SLIMMABLE_YOLOV3_TINY, shipped

_KINDS = tuple(f"vcm.tasks.{kind}" for kind in ("ClassificationTask", "TorchvisionDetectionTask", "YOLOTask"))
"""Task classes that a model file may name, so that a file from a third party cannot choose code to run."""


def load_model_task(path: str | Path, name: str) -> SplitTask:
    """Load the task network that one width of a model was trained for, as recorded in the model file.

    Raises:
        WeightsError: If the file is not a model, records no task of this name, or the network cannot be
            built. If its weights are missing, the message says how to download them.
    """
    plan = _plans(path).get(name)
    if not isinstance(plan, dict):
        raise WeightsError(
            f"{path} does not record the network of its task {name!r}. `vcm train` records it; in Python, "
            "pass your own task to vcm.codecs.SlimmableFeatureCodec."
        )
    kind = plan.pop("_target_", None)
    if kind not in _KINDS:
        raise WeightsError(
            f"{path}: the network of its task {name!r} is not a class of vcm; only "
            f"{', '.join(_KINDS)} are built from model files. In Python, use "
            "vcm.codecs.SlimmableFeatureCodec."
        )
    try:
        task: SplitTask = getattr(tasks, kind.rpartition(".")[2])(**_resolved(plan))
    except Exception as error:
        # The file may come from a third party, so its settings can raise anything.
        cause = user_message(error) or f"{type(error).__name__}: {error}"
        raise WeightsError(f"{path}: cannot build the network of its task {name!r}: {cause}") from error
    return task


def _resolved(value: Any) -> Any:  # noqa: ANN401  any JSON value
    """Replace ${asset:NAME,FILE} in a JSON value by the path of the cached file.

    Nothing else is interpolated, because model files may come from third parties: they must not read this
    machine's environment or expand without end.

    Raises:
        ArgumentError: If there is another interpolation.
    """
    if isinstance(value, dict):
        return {key: _resolved(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_resolved(part) for part in value]
    if not isinstance(value, str) or "${" not in value:
        return value
    asset = re.fullmatch(r"\$\{asset:([^,${}]+),([^${}]+)\}", value)
    if asset is None:
        raise ArgumentError("tasks", expected="plain values or ${asset:NAME,FILE}", got=value[:80])
    return str(asset_file(asset[1].strip(), asset[2].strip()))


def _plans(path: str | Path) -> dict[str, Any]:
    try:
        return read_json(read_notes(path).get("tasks", "{}"), "tasks")
    except ArgumentError as error:
        raise WeightsError(f"{path}: {error}") from error


class Model:
    """A model file with the codecs and task networks of its widths, loaded on first use.

    Args:
        path: Model file written by `vcm train`; None for the model shipped with vcm.
        device: "cpu", "cuda", … or "auto".
        quality: Operating point of encoded streams; None for the middle one. Streams of all operating points
            are decoded.
        effort: Steps of the encoder-side search per image.

    Raises:
        WeightsError: If the file is not a model.
        ArgumentError: If the device or the quality does not exist, or if `effort` is set and the model
            records no λ for the search.
    """

    def __init__(
        self, path: Path | None, device: str, quality: float | None = None, *, effort: int = 0
    ) -> None:
        self.path = path or shipped(SLIMMABLE_YOLOV3_TINY)
        self.device = choose_device(device)
        self.network = load_network(self.path)
        self.quality, self.effort = self._check(quality), effort
        self._features: dict[str, tuple[SlimmableFeatureCodec, SplitTask]] = {}

    @cached_property
    def images(self) -> LearnedCodec:
        """The codec for reconstruction, for people."""
        return LearnedCodec(self.quality, model=self.network, device=str(self.device), effort=self.effort)

    @cached_property
    def _fingerprints(self) -> dict[bytes, str]:
        """Tasks by fingerprint, computed once because the weights do not change."""
        return {self.network.fingerprint(task)[:FINGERPRINT_BYTES]: task for task in self.network.tasks}

    def features(self, task: str) -> tuple[SlimmableFeatureCodec, SplitTask]:
        """Return the feature codec of a task and the task's network.

        Raises:
            WeightsError: If the network cannot be loaded; see `load_model_task`.
            ArgumentError: If the codec and the network do not fit each other.
        """
        if task not in self._features:
            codec = SlimmableFeatureCodec(
                self.quality, model=self.network, task=task, device=str(self.device), effort=self.effort
            )
            network = load_model_task(self.path, task).to(self.device)
            check_fit(codec, network)
            if self.effort:
                codec.objective = search_objective(codec, network)
            self._features[task] = codec, network
        return self._features[task]

    def task_for(self, purpose: str) -> str:
        """Return the task that `--for` names.

        Raises:
            ArgumentError: If the model has no such task.
        """
        task = RECONSTRUCTION if purpose == VIEWING else purpose
        if task not in self.network.tasks:
            expected = f"a task of {self.path}: {self._purposes()}"
            raise ArgumentError("--for", expected=expected, got=purpose)
        return task

    def task_of(self, header: Header) -> str:
        """Return the task of a stream.

        Raises:
            BitstreamError: If the stream was encoded with another model.
        """
        known = self._fingerprints
        if header.fingerprint in known:
            return known[header.fingerprint]
        if header.purpose in self.network.tasks:
            lacks = ""
        else:
            lacks = f" and is for {shown_task(header.purpose)}, a task that {self.path} does not have"
        having = ", ".join(f"{key.hex()} for {shown_task(task)}" for key, task in known.items())
        raise BitstreamError(
            f"the stream was encoded with another model: it has fingerprint "
            f"{header.fingerprint.hex()}{lacks}; {self.path} has {having}. "
            "Use --model with the file that it was encoded with."
        )

    def header_key(self, task: str) -> tuple[str, bytes, float]:
        """Return task, fingerprint and quality in the header of the streams that `encode` writes."""
        return task, self.network.fingerprint(task)[:FINGERPRINT_BYTES], self.quality

    def encode(self, image: Tensor, task: str, on_step: Callable[[int, int], None] | None = None) -> bytes:
        """Encode an image for one of the model's tasks.

        Args:
            image: RGB image (3, H, W), uint8.
            task: Task of the model.
            on_step: Progress callback of the search; receives the steps done and the total.
        """
        check_image(image)
        if task == RECONSTRUCTION:
            return self.images.encode(image, on_step)
        codec, network = self.features(task)
        return encode_for(network, codec, image, on_step)

    def predict(self, data: bytes, task: str) -> Prediction:
        """Decode a stream and return the predictions of the task's network."""
        codec, network = self.features(task)
        return predict_from(network, codec.decode(data))

    def _check(self, quality: float | None) -> float:
        try:
            return self.network.check_quality(quality)
        except ArgumentError as error:
            several = self.network.qualities > 1
            expected = f"1, the only operating point of {self.path}"
            if several:
                expected = f"in [1, {self.network.qualities}], the operating points of {self.path}"
            raise ArgumentError("--quality", expected=expected, got=quality) from error

    def _purposes(self) -> str:
        return ", ".join(shown_task(task) for task in self.network.tasks)
