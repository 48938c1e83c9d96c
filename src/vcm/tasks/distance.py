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
"""Guide name for the task network's raw outputs."""
HEADS_WEIGHT = 0.1
"""Weight of the divergence of raw outputs (in nats per expected object), relative to feature errors."""


@dataclass(frozen=True)
class Reference:
    """Reference values that decoded features are compared with.

    Attributes:
        target: Features at the cut, (N, C, h, w).
        maps: For each guide layer, the tensors needed after it, by name.
        outputs: Raw outputs by name; empty if they are not compared.
    """

    target: Tensor
    maps: list[dict[str, Tensor]]
    outputs: dict[str, Tensor]


class FeatureDistance:
    """Distortion of decoded features.

    Without guides, it is the mean squared error at the cut, as published. With guides, features are passed on
    through the frozen network and compared at deeper layers, where the errors that matter to the task show:

    ```
    D = Σ relative error of the tensors needed after each guide layer
      + 0.1 · divergence of the raw outputs, if "heads" is a guide (`SplitTask.output_divergence`)
      + near_weight · relative error at the cut
    ```

    The raw outputs measure what this task needs; the feature errors also preserve what other networks need.

    Args:
        task: Frozen task network.
        guides: Layers at or after the task's cut, and "heads" for the raw outputs: a name, several, or None.
        near_weight: Weight of the relative error at the cut, at least 0.

    Raises:
        ArgumentError: If the task does not have a layer or raw outputs, or the weight is negative.
    """

    def __init__(self, task: SplitTask, guides: str | Sequence[str] | None, near_weight: float) -> None:
        if not is_number(near_weight) or not 0 <= near_weight < float("inf"):
            raise ArgumentError("near_weight", expected="a number of at least 0", got=near_weight)
        named = [guides] if isinstance(guides, str) else list(guides or ())
        self.task, self.near_weight = check_split_task("task", task, "a feature distance"), float(near_weight)
        layers = {task.check_later_cut(guide) for guide in named if guide != HEADS}
        self.layers = [layer for layer in task.cuts if layer in layers]
        self.heads = HEADS in named
        self._cut_at = [task, *(_cut_later(task, layer) for layer in self.layers)]
        if self.heads and not task.has_heads:
            raise ArgumentError("guides", expected=f"layers of {task.name}, without heads", got=HEADS)

    def __call__(self, decoded: Tensor, target: Tensor) -> Tensor:
        """Compute the distance, a differentiable scalar; always in float32, even under autocast.

        Args:
            decoded: Decoded features f̂, (N, C, h, w).
            target: Original features f, of the same shape.
        """
        with torch.autocast(decoded.device.type, enabled=False):
            return self.to(target.float())(decoded.float())

    @torch.no_grad()
    def reference(self, target: Tensor) -> Reference:
        """Compute the reference values for original features.

        Args:
            target: Original features f, (N, C, h, w) float32.
        """
        maps, outputs = self._deeper(target) if self.layers or self.heads else ([], {})
        return Reference(target, maps, outputs)

    def to(self, target: Tensor | Reference) -> Callable[[Tensor], Tensor]:
        """Return the distance from a target as a function, with everything about the target computed once.

        Args:
            target: Original features f, (N, C, h, w) float32, or their `reference`.

        Returns:
            Function of decoded features f̂ of the same shape; may be called under autocast.
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
        """Return the tensors needed after each guide layer, and the raw outputs if required."""
        # The image sizes are only used for boxes.
        features, maps = Features({self.task.cut: feature}, ((1, 1),) * len(feature)), []
        for task, layer in zip(self._cut_at, self.layers, strict=False):
            features = task.onward(features, layer)
            maps.append(features.tensors)
        return maps, self._cut_at[-1].outputs(features) if self.heads else {}


def feature_objective(
    task: SplitTask, guides: str | Sequence[str] | None = HEADS, near_weight: float = 0.3
) -> Callable[[Tensor], Callable[[Tensor], Tensor]]:
    """Build the objective of a feature search: `FeatureDistance` from the features of a task's input.

    Args:
        task: Frozen task network with the cut of the decoded features.
        guides: See `FeatureDistance`.
        near_weight: See `FeatureDistance`.

    Returns:
        Function from the task's input, (1, 3, H, W) float in [0, 1], to a function of decoded features.

    Raises:
        ArgumentError: If an argument of `FeatureDistance` is invalid.
    """
    distance = FeatureDistance(task, guides, near_weight)

    def objective(x: Tensor) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            target = task.cut_feature(Prepared(x, ((x.shape[-2], x.shape[-1]),) * len(x)))
        return distance.to(target.float())

    return objective


def _cut_later(task: SplitTask, layer: str) -> SplitTask:
    """Return the same network with a later cut."""
    later = copy.copy(task)
    later.cut = layer
    return later


def output_error(
    task: SplitTask,
    found: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    true: tuple[Mapping[str, Tensor], Mapping[str, Tensor]],
    feature_share: float,
) -> Tensor:
    """Compute 0.1 · divergence of the raw outputs + feature_share · relative error of features, (N,).

    Args:
        task: Task that computed them.
        found: Features and raw outputs of the decoded images, by name.
        true: Features and raw outputs of the originals.
        feature_share: Weight of the feature error, at least 0.
    """
    errors = feature_share * relative_errors(found[0], true[0])
    return HEADS_WEIGHT * task.output_divergence(found[1], true[1]) + errors


def image_distance(
    task: SplitTask, feature_share: float = 1.0
) -> Callable[[Tensor], Callable[[Tensor], Tensor]]:
    """Build the objective of an image search.

    ```
    0.1 · divergence of the raw outputs + feature_share · relative error of the features
    ```

    The features are those at the task's deepest cut, wherever the task is cut. For a task without raw
    outputs, the objective is the feature error alone, with weight 1.

    Args:
        task: Frozen task network; it reads the original and the decoded image like `SplitTask.predict`.
        feature_share: Weight of the feature error, at least 0.

    Returns:
        Function from the original, (1, 3, H, W) in [0, 1], to a function of the decoded image of the same
        shape, which returns a differentiable scalar and may be called under autocast.
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
