"""The result of an evaluation in three sentences."""

from __future__ import annotations

from vcm.evaluation.curves import Axis, Comparison
from vcm.evaluation.report.study import Study

_MAX_NAMED = 4
"""Most codecs that a sentence names."""


def findings(study: Study) -> list[str]:
    """Say which codec saves most bits, what the others need, and what the images do not decide.

    All sentences are about BD-rates against the anchor on the study's main axis.

    Args:
        study: The evaluation.

    Returns:
        Three sentences; none if no codec has a BD-rate there.
    """
    if not study.comparisons:
        return []
    axis, by_system = study.comparisons[study.main]
    known = [found for found in by_system.values() if found.rate.value is not None]
    known.sort(key=lambda found: found.rate.value or 0.0)
    if not known:
        return []
    anchor = study.titles[study.anchor]
    return [_best(known, anchor, axis), _others(known[1:], anchor), _limits(study, by_system, known)]


def _best(known: list[Comparison], anchor: str, axis: Axis) -> str:
    best, title = known[0], axis.title.removesuffix(" (%)").removesuffix(" (dB)")
    value = best.rate.value or 0.0
    if value >= 0:
        return f"At equal {title}, no codec needs fewer bits than {anchor}."
    ends = best.interval.ends if best.interval is not None else None
    interval = "" if ends is None else f" (95 % interval {_range(-ends[1], -ends[0])})"
    return f"At equal {title}, {best.title} saves {-value:.0f} % of the bits of {anchor}{interval}."


def _others(others: list[Comparison], anchor: str) -> str:
    if not others:
        return "No other codec has a BD-rate."
    named = others if len(others) <= _MAX_NAMED else [*others[: _MAX_NAMED - 1], others[-1]]
    parts = [f"{found.title} {_change(found.rate.value or 0.0)}" for found in named]
    return f"Against {anchor}, {'; '.join(parts)}."


def _change(value: float) -> str:
    return f"saves {-value:.0f} %" if value < 0 else f"needs {value:.0f} % more"


def _limits(study: Study, by_system: dict[str, Comparison], known: list[Comparison]) -> str:
    count = study.results.data["num_images"]
    start = f"Measured on {count} image{'s' if count != 1 else ''}"
    unsure = [found.title for found in known if found.interval is None or not found.interval.excludes_zero]
    missing = [found.title for found in by_system.values() if found.rate.value is None]
    parts = []
    if unsure:
        parts.append(f"too few to tell fewer bits from more for {_listed(unsure)}")
    if missing:
        parts.append(f"curves that overlap too little for a BD-rate: {_listed(missing)}")
    return f"{start}; {'; '.join(parts)}." if parts else f"{start}; every interval excludes zero."


def _listed(titles: list[str]) -> str:
    more = f" and {len(titles) - _MAX_NAMED} more" if len(titles) > _MAX_NAMED else ""
    return ", ".join(titles[:_MAX_NAMED]) + more


def _range(low: float, high: float) -> str:
    return f"{low:.0f} to {high:.0f}".replace("-", "−")
