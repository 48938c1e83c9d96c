"""Model files with their task networks."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from vcm import tasks
from vcm.cli.composition import told_error
from vcm.cli.devices import choose_device
from vcm.cli.files import RECONSTRUCTION, VIEWING, shown_task
from vcm.codecs import LearnedCodec, SlimmableFeatureCodec
from vcm.codecs.base import check_image
from vcm.codecs.learned.container import FINGERPRINT_BYTES, Header
from vcm.data.assets import asset_file
from vcm.errors import ArgumentError, BitstreamError, WeightsError
from vcm.evaluation.features import check_fit, encode_for, predict_from, search_objective
from vcm.nn.files import read_json, read_notes
from vcm.nn.slimmable import load_network
from vcm.tasks import SplitTask
from vcm.types import Prediction
from vcm.weights import SLIMMABLE_YOLOV3_TINY, shipped

_KINDS = tuple(f"vcm.tasks.{kind}" for kind in ("ClassificationTask", "TorchvisionDetectionTask", "YOLOTask"))
"""What a model file may name: whoever sends one must not choose what runs here."""


def load_model_task(path: str | Path, name: str) -> SplitTask:
    """The task network that one of a model's widths was trained for, as `vcm train` noted it in the file.

    Raises:
        WeightsError: If the file is no model, notes no such task, or the network cannot be built; where its
            weights are missing, the message says how to fetch them.
    """
    plan = _plans(path).get(name)
    if not isinstance(plan, dict):
        raise WeightsError(
            f"{path} does not say which network its width for {name} serves. `vcm train` notes it; from "
            "Python, use vcm.codecs.SlimmableFeatureCodec with a task of your own."
        )
    kind = plan.pop("_target_", None)
    if kind not in _KINDS:
        raise WeightsError(
            f"{path}: its width for {name} serves a network that is not vcm's own; only "
            f"{', '.join(_KINDS)} are built from model files. From Python, use "
            "vcm.codecs.SlimmableFeatureCodec."
        )
    try:
        task: SplitTask = getattr(tasks, kind.rpartition(".")[2])(**_resolved(plan))
    except Exception as error:
        # Whatever stands in the file: it may be anybody's.
        cause = told_error(error) or f"{type(error).__name__}: {error}"
        raise WeightsError(f"{path}: the network that its width for {name} serves: {cause}") from error
    return task


def _resolved(value: Any) -> Any:  # noqa: ANN401  any JSON value
    """A note with the cached files in the place of ${asset:NAME,FILE}.

    Nothing else is interpolated: whoever sends a model file must not read this machine's environment, nor
    have text unfold without end.

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
        raise ArgumentError("its note of tasks", expected="values, and ${asset:NAME,FILE}", got=value[:80])
    return str(asset_file(asset[1].strip(), asset[2].strip()))


def _plans(path: str | Path) -> dict[str, Any]:
    try:
        return read_json(read_notes(path).get("tasks", "{}"), "its note of tasks")
    except ArgumentError as error:
        raise WeightsError(f"{path}: {error}") from error


class Model:
    """A model file, and what its widths need beside it, loaded when first used.

    Args:
        path: What `vcm train` wrote; None takes the model that comes with vcm.
        device: "cpu", "cuda", … or "auto".
        quality: Which of the model's qualities streams are written at; None takes the middle. All are read.
        effort: Steps of the encoder-side search for each image.

    Raises:
        WeightsError: If the file is no model.
        ArgumentError: If there is no such device, the model has no such quality, or notes no λ to search by.
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
        """The codec for people."""
        return LearnedCodec(self.quality, model=self.network, device=str(self.device), effort=self.effort)

    @cached_property
    def _fingerprints(self) -> dict[bytes, str]:
        """The tasks by their fingerprints; weights do not change here, so they are computed once."""
        return {self.network.fingerprint(task)[:FINGERPRINT_BYTES]: task for task in self.network.tasks}

    def features(self, task: str) -> tuple[SlimmableFeatureCodec, SplitTask]:
        """The codec for a task, and the task's network.

        Raises:
            WeightsError: As `load_model_task` does.
            ArgumentError: If they do not fit each other.
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
        """The task that `--for` names.

        Raises:
            ArgumentError: If the model has no width for it.
        """
        task = RECONSTRUCTION if purpose == VIEWING else purpose
        if task not in self.network.tasks:
            expected = f"one that {self.path} has a width for: {self._purposes()}"
            raise ArgumentError("--for", expected=expected, got=purpose)
        return task

    def task_of(self, header: Header) -> str:
        """The task whose stream it is.

        Raises:
            BitstreamError: If it is of another model.
        """
        known = self._fingerprints
        if header.fingerprint in known:
            return known[header.fingerprint]
        if header.purpose in self.network.tasks:
            lacks = ""
        else:
            lacks = f", and for {shown_task(header.purpose)}, for which {self.path} has no width"
        having = ", ".join(f"{key.hex()} for {shown_task(task)}" for key, task in known.items())
        raise BitstreamError(
            f"the stream is of another model: it has fingerprint {header.fingerprint.hex()}{lacks}; "
            f"{self.path} has {having}. Say --model with the file that it was made with."
        )

    def header_key(self, task: str) -> tuple[str, bytes, float]:
        """Purpose, fingerprint and quality of the streams that `encode` writes for a task."""
        return task, self.network.fingerprint(task)[:FINGERPRINT_BYTES], self.quality

    def encode(self, image: Tensor, task: str, on_step: Callable[[int, int], None] | None = None) -> bytes:
        """Encode an image for one of the model's tasks.

        Args:
            image: (3, H, W) uint8 RGB.
            task: One of the model's.
            on_step: Called during a search with the steps done and all of them.
        """
        check_image(image)
        if task == RECONSTRUCTION:
            return self.images.encode(image, on_step)
        codec, network = self.features(task)
        return encode_for(network, codec, image, on_step)

    def predict(self, data: bytes, task: str) -> Prediction:
        """What the task's network finds in a stream."""
        codec, network = self.features(task)
        return predict_from(network, codec.decode(data))

    def _check(self, quality: float | None) -> float:
        try:
            return self.network.check_quality(quality)
        except ArgumentError as error:
            several = self.network.qualities > 1
            expected = f"1, the only one that {self.path} has"
            if several:
                expected = f"from 1 to {self.network.qualities}, as {self.path} has them"
            raise ArgumentError("--quality", expected=expected, got=quality) from error

    def _purposes(self) -> str:
        return ", ".join(shown_task(task) for task in self.network.tasks)
