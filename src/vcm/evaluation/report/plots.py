"""Rate curves, drawn with matplotlib."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vcm.evaluation.curves import Axis, Curve

# Okabe and Ito's palette: told apart by people with any colour vision, and by marker where colours run out.
# The report's style sheet turns INK, SOFT, GRID, white and the first blue round for dark screens.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, SOFT, GRID = "#1b1f24", "#5b6570", "#d9dee3"
STYLE = {
    **{"font.family": "sans-serif", "font.size": 11, "text.color": INK, "text.parse_math": False},
    **{"axes.labelcolor": INK, "axes.edgecolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT},
    **{"svg.fonttype": "none", "svg.hashsalt": "vcm"},
}
LEGEND_LETTERS = 60
"""About as many letters as fit side by side in a row of the legend, the lines before them included."""
MIN_SPAN = 1.0
"""Shortest range of the upright axis, in percent or dB, so that noise does not look like a difference."""


def draw(drawn: Sequence[Curve], axis: Axis, original: float | None) -> Figure:
    """One figure: a line with markers for each curve over rate, light bars where points have intervals.

    Args:
        drawn: The curves, at least one.
        axis: What they show.
        original: The value on uncompressed images in the axis' unit, drawn as a dashed line; None for none.
    """
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # matplotlib lists every key; these are some
        columns = _legend_columns([_short(curve.title) for curve in drawn])
        rows = math.ceil((len(drawn) + (original is not None)) / columns)
        figure = Figure(figsize=(6.4, 4.15 + 0.23 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        plot = figure.add_subplot()
        for place, curve in enumerate(drawn):
            rates, values = zip(*curve.points, strict=True)
            colour = COLOURS[place % len(COLOURS)]
            plot.plot(
                rates,
                values,
                color=colour,
                marker=MARKERS[(place + place // len(COLOURS)) % len(MARKERS)],
                markersize=5.5,
                linewidth=1.8,
                label=_short(curve.title),
            )
            bars = [(r, *ends) for r, ends in zip(rates, curve.intervals, strict=True) if ends is not None]
            if bars:
                plot.vlines(*zip(*bars, strict=True), color=colour, linewidth=3, alpha=0.3, zorder=1.5)
        if original is not None:
            plot.axhline(original, color=SOFT, linewidth=1.2, linestyle="--", zorder=1, label="originals")
        plot.set_xlim(left=0)
        _set_range(plot, is_percent=axis.labels is not None)
        plot.set_xlabel("rate (bits per pixel)")
        plot.set_ylabel(axis.title)
        plot.grid(color=GRID, linewidth=0.7)
        plot.tick_params(length=0)
        plot.set_axisbelow(True)
        plot.spines[["top", "right", "left"]].set_visible(False)
        figure.legend(
            loc="outside upper left", ncols=columns, frameon=False, columnspacing=1.6, handlelength=1.8
        )
    return figure


def _legend_columns(titles: Sequence[str]) -> int:
    return max(1, min(len(titles) + 1, LEGEND_LETTERS // (max(map(len, titles)) + 4)))


def _short(title: str) -> str:
    return title if len(title) <= LEGEND_LETTERS else f"{title[: LEGEND_LETTERS - 1]}…"


def _set_range(plot: Axes, *, is_percent: bool) -> None:
    """Keep the upright axis from blowing up noise, and percentages near 0 to 100."""
    low, high = plot.get_ylim()
    if high - low < MIN_SPAN:
        middle = (low + high) / 2
        low, high = middle - MIN_SPAN / 2, middle + MIN_SPAN / 2
    if is_percent:
        low, high = max(low, -2.0), min(high, 102.0)  # markers at 0 and 100 stay whole
    plot.set_ylim(low, high)


def as_svg(figure: Figure) -> str:
    """The figure as an <svg> element, without the XML prologue."""
    text = _save(figure, "svg", metadata={"Date": None, "Creator": None}).decode()
    return text[text.index("<svg") :]


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file, at 160 dots an inch."""
    return _save(figure, "png", dpi=160, metadata={"Software": None})


def _save(figure: Figure, kind: str, **options: Any) -> bytes:  # noqa: ANN401  matplotlib's own options
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]  # as above
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # a browser has fonts for those
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
