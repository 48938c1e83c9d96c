"""Objectives of hyperparameter sweeps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vcm.errors import ArgumentError, EvaluationError
from vcm.files import read_text

if TYPE_CHECKING:
    from vcm.evaluation.results import Results

DIRECTIONS = ("minimize", "maximize")
DEFAULT_METRIC = "val/loss"
_MAX_METRICS_BYTES = 1 << 30


@dataclass(frozen=True)
class Objective:
    """Value that a sweep minimizes or maximizes.

    Attributes:
        name: Name of the objective, such as "val/loss".
        value: Value of the objective; None if undefined.
        direction: "minimize" or "maximize".
    """

    name: str
    value: float | None
    direction: Literal["minimize", "maximize"] = "minimize"

    @property
    def cost(self) -> float:
        """The value with the sign such that lower is better; infinity if undefined."""
        if self.value is None or math.isnan(self.value):
            return math.inf
        return self.value if self.direction == "minimize" else -self.value


def check_metric_objective(plan: Mapping[str, Any]) -> None:
    """Raise ArgumentError unless the direction of a training objective is valid."""
    if plan["direction"] not in DIRECTIONS:
        raise ArgumentError(
            "objective.direction", expected=f"one of {', '.join(DIRECTIONS)}", got=plan["direction"]
        )


def metric_objective(path: Path, plan: Mapping[str, Any]) -> Objective | None:
    """Return the last value of a logged metric.

    Args:
        path: metrics.jsonl of the training run.
        plan: Fields of `vcm.config.MetricObjective`.

    Returns:
        The objective; None if nothing was logged, or if the default metric was not logged.

    Raises:
        ArgumentError: If a metric other than the default was never logged.
        EvaluationError: If the file is damaged.
    """
    try:
        rows = [json.loads(line) for line in read_text(path, limit=_MAX_METRICS_BYTES).splitlines()]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path} is damaged: {error}.") from error
    name = str(plan["metric"])
    values = [row[name] for row in rows if name in row]
    if values:
        last = values[-1]
        value = float(last) if isinstance(last, (int, float)) and math.isfinite(last) else None
        return Objective(name, value, plan["direction"])
    if name == DEFAULT_METRIC:
        return None
    logged = sorted({key for row in rows for key in row if "/" in key})
    raise ArgumentError("objective.metric", expected=f"one of {', '.join(logged)}", got=name)


def check_bd_objective(plan: Mapping[str, Any], curves: Iterable[str]) -> None:
    """Raise ArgumentError unless the objective of an evaluation names two of its curves."""
    names = list(curves)
    for key in ("codec", "anchor"):
        if plan[key] is not None and plan[key] not in names:
            raise ArgumentError(
                f"objective.{key}", expected=f"null or one of {', '.join(names)}", got=plan[key]
            )
    if plan["codec"] is not None and plan["codec"] == plan["anchor"]:
        raise ArgumentError(
            "objective.codec", expected="a different curve than objective.anchor", got=plan["codec"]
        )
    if plan["labels"] not in (None, "truth", "pseudo"):
        raise ArgumentError("objective.labels", expected="null, truth or pseudo", got=plan["labels"])


def bd_objective(results: Results, plan: Mapping[str, Any]) -> Objective | None:
    """Compute the BD-rate that a sweep over evaluations optimizes.

    Args:
        results: Results of the evaluation.
        plan: Fields of `vcm.config.BDRateObjective`, validated by `check_bd_objective`.

    Returns:
        The BD-rate in percent, with value None if it is undefined; None if there is only one curve.

    Raises:
        ArgumentError: If the results lack the labels or the accuracy.
    """
    from vcm.evaluation.curves import axes_of, compare, curves

    axes = [axis for axis in axes_of(results, plan["accuracy"]) if axis.labels]
    axis = next((axis for axis in axes if plan["labels"] in (None, axis.labels)), None)
    if axis is None:
        kinds = " or ".join(str(axis.labels) for axis in axes)
        raise ArgumentError("objective.labels", expected=f"null or {kinds}", got=plan["labels"])
    codec, anchor = plan["codec"], plan["anchor"]
    systems = [name for name in dict.fromkeys(point.system for point in results.points) if name != codec]
    if anchor is None:
        anchor = "bpg" if "bpg" in systems else next(iter(systems), None)
    codec = codec or next((name for name in reversed(systems) if name != anchor), None)
    if anchor is None or codec is None:
        return None
    drawn = curves(results.points, axis)
    is_drawn = anchor in {curve.system for curve in drawn}
    found = {
        one.system: one.rate.value for one in (compare(drawn, anchor, by_envelope=True) if is_drawn else ())
    }
    return Objective(f"BD-rate of {codec} against {anchor} at equal {axis.title}", found.get(codec))
