"""Feature distortion at the split point, at deeper layers and at the raw outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vcm.errors import ArgumentError
from vcm.losses.outputs import relative_errors
from vcm.losses.rate_distortion import squared_error
from vcm.tasks.split import SplitTask, check_split_task
from vcm.types import Features, Prepared
from vcm.validation import is_number

HEADS = "heads"
"""The guide that stands for the task network's raw outputs."""
HEADS_WEIGHT = 0.1
"""Of the divergence of raw outputs, in nats an expected object, beside relative errors of features."""


@dataclass(frozen=True)
class Reference:
    """What decoded features are compared with.

    Attributes:
        target: Features at the cut, (N, C, h, w).
        maps: For each guided layer, all that is needed after it, by name.
        outputs: Raw outputs by name; empty where they do not count.
    """

    target: Tensor
    maps: list[dict[str, Tensor]]
    outputs: dict[str, Tensor]


class FeatureDistance:
    """The distortion of a machine width.

    Without guides it is the mean squared error at the cut, as published. With guides, features are run on
    through the frozen network and compared there, where it shows what the task makes of an error:

    ```
    D = Σ relative error of all that is needed after each guided layer
      + 0.1 · divergence of the raw outputs, if "heads" is a guide (`SplitTask.output_divergence`)
      + near_weight · relative error at the cut
    ```

    Heads tell what this task needs; features keep what other networks need besides.

    Args:
        task: Frozen.
        guides: Layers at or after the task's cut, and "heads"; one name, several, or None.
        near_weight: The share of the relative error at the cut.

    Raises:
        ArgumentError: If the task has no such layer or no heads, or the share is below 0.
    """

    def __init__(self, task: SplitTask, guides: str | Sequence[str] | None, near_weight: float) -> None:
        if not is_number(near_weight) or not 0 <= near_weight < float("inf"):
            raise ArgumentError("near_weight", expected="a number from 0", got=near_weight)
        named = [guides] if isinstance(guides, str) else list(guides or ())
        self.task, self.near_weight = check_split_task("task", task, "a feature distance"), float(near_weight)
        layers = {task.check_later_cut(guide) for guide in named if guide != HEADS}
        self.layers = [layer for layer in task.cuts if layer in layers]
        self.heads = HEADS in named
        self._cut_at = [task, *(_cut_later(task, layer) for layer in self.layers)]
        if self.heads and not task.has_heads:
            raise ArgumentError("guides", expected=f"layers of {task.name}, which has no heads", got=HEADS)

    def __call__(self, decoded: Tensor, target: Tensor) -> Tensor:
        """A scalar with a gradient; in float32 under mixed precision, too.

        Args:
            decoded: f̂, (N, C, h, w).
            target: f, of the same shape.
        """
        with torch.autocast(decoded.device.type, enabled=False):
            return self.to(target.float())(decoded.float())

    @torch.no_grad()
    def reference(self, target: Tensor) -> Reference:
        """Compute what decoded features are compared with.

        Args:
            target: f, (N, C, h, w) float32.
        """
        maps, outputs = self._deeper(target) if self.layers or self.heads else ([], {})
        return Reference(target, maps, outputs)

    def to(self, target: Tensor | Reference) -> Callable[[Tensor], Tensor]:
        """The distance from one target, of which everything is computed once.

        Args:
            target: f, (N, C, h, w) float32, or what `reference` gave for it.

        Returns:
            A function of f̂, of the same shape; it may be called under autocast.
        """
        reference = self.reference(target) if isinstance(target, Tensor) else target
        near, far, true = reference.target, reference.maps, reference.outputs
        if not (self.layers or self.heads):
            return lambda decoded: squared_error(decoded, near)

        def distance(decoded: Tensor) -> Tensor:
            errors = self.near_weight * relative_errors({"": decoded.float()}, {"": near})
            found, outputs = self._deeper(decoded)
            for maps, expected in zip(found, far, strict=True):
                errors = errors + relative_errors({k: v.float() for k, v in maps.items()}, expected)
            if self.heads:
                errors = errors + HEADS_WEIGHT * self.task.output_divergence(outputs, true)
            return errors.mean()

        return distance

    def _deeper(self, feature: Tensor) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """What is needed after each layer, and the raw outputs if asked for; every layer runs once."""
        # Sizes matter for boxes alone.
        features, maps = Features({self.task.cut: feature}, ((1, 1),) * len(feature)), []
        for task, layer in zip(self._cut_at, self.layers, strict=False):
            features = task.onward(features, layer)
            maps.append(features.tensors)
        return maps, self._cut_at[-1].outputs(features) if self.heads else {}


def feature_objective(
    task: SplitTask, guides: str | Sequence[str] | None = HEADS, near_weight: float = 0.3
) -> Callable[[Tensor], Callable[[Tensor], Tensor]]:
    """What an encoder-side search for a task lowers: `FeatureDistance` from the features of its input.

    Args:
        task: Frozen, cut where the decoded features belong.
        guides: As `FeatureDistance` takes them.
        near_weight: As `FeatureDistance` takes it.

    Returns:
        A function from the task's input, (1, 3, H, W) float in [0, 1], to a function of decoded features.

    Raises:
        ArgumentError: As `FeatureDistance` does.
    """
    distance = FeatureDistance(task, guides, near_weight)

    def objective(x: Tensor) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            target = task.cut_feature(Prepared(x, ((x.shape[-2], x.shape[-1]),) * len(x)))
        return distance.to(target.float())

    return objective


def _cut_later(task: SplitTask, layer: str) -> SplitTask:
    """The same network, cut at a later layer."""
    later = copy.copy(task)
    later.cut = layer
    return later


def output_error(
    task: SplitTask,
    found: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    true: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    feature_share: float,
) -> Tensor:
    """0.1 · divergence of the raw outputs + feature_share · relative error of features, (N,).

    Args:
        task: Whose they are.
        found: Features and raw outputs of the decoded images, by name.
        true: Those of the originals.
        feature_share: From 0.
    """
    errors = feature_share * relative_errors(found[0], true[0])
    return HEADS_WEIGHT * task.output_divergence(found[1], true[1]) + errors


def image_distance(
    task: SplitTask, feature_share: float = 1.0
) -> Callable[[Tensor], Callable[[Tensor], Tensor]]:
    """What an encoder-side search of an image's pixels lowers.

    ```
    0.1 · divergence of the raw outputs + feature_share · relative error of the features
    ```

    Features are those that are needed after the task's deepest cut, wherever it is cut. A task without heads
    takes their error alone, whatever its share.

    Args:
        task: Frozen; it reads the image and the decoded image as `SplitTask.predict` does.
        feature_share: From 0.

    Returns:
        A function from the original, (1, 3, H, W) in [0, 1], to a function of the decoded image, of the same
        shape, that gives a scalar with a gradient; that may be called under autocast.
    """
    task = _cut_later(task, task.deepest_cut)

    def objective(x: Tensor) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            true = task.features(x)
            outputs = task.outputs(true) if task.has_heads else {}

        def distance(decoded: Tensor) -> Tensor:
            found = task.features(decoded)
            tensors = {name: tensor.float() for name, tensor in found.tensors.items()}
            if not task.has_heads:
                return relative_errors(tensors, true.tensors).mean()
            pair = (tensors, task.outputs(found))
            return output_error(task, pair, (true.tensors, outputs), feature_share).mean()

        return distance

    return objective
