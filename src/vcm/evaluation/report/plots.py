"""Rate–accuracy plots with matplotlib."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from vcm.evaluation.curves import Axis, Curve

# Okabe and Ito's palette, which people with any colour vision can distinguish, and three more; markers
# differ, too.
# The report's style sheet turns INK, SOFT, GRID, white and the first blue round for dark screens.
COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8A8A8A",
    "#7B5EA7",
    "#8C6D46",
    "#B0A000",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h")
_CHARACTERS = dict(zip(MARKERS, "●■▲◆▼✚✖◀▶⬢", strict=True))
INK, SOFT, GRID = "#1b1f24", "#5b6570", "#d9dee3"
STYLE = {
    **{"font.family": "sans-serif", "font.size": 11, "text.color": INK, "text.parse_math": False},
    **{"axes.labelcolor": INK, "axes.edgecolor": SOFT, "xtick.color": SOFT, "ytick.color": SOFT},
    **{"svg.fonttype": "none", "svg.hashsalt": "vcm"},
    **{"figure.autolayout": False, "figure.constrained_layout.use": False, "figure.dpi": 100},
    **{f"figure.constrained_layout.{side}_pad": 0.04167 for side in "hw"},
    **{"savefig.bbox": None, "savefig.dpi": "figure"},
}
PAPER = {
    **{"font.family": "serif", "font.size": 8, "axes.linewidth": 0.6, "mathtext.fontset": "stix"},
    **{"text.color": "black", "axes.labelcolor": "black", "xtick.color": "black", "ytick.color": "black"},
    **{"pdf.fonttype": 42, "legend.fontsize": 7},
}
"""Additions to `STYLE` for a column of a paper, 3.4 inches wide, with fonts that publishers accept."""
Style = Literal["screen", "paper"]
LEGEND_LETTERS = 60
"""About as many letters as fit side by side in a row of the legend, the lines before them included."""
PAPER_LETTERS = 50
"""The same in a column of a paper."""
_CURVE_ID = "curve"
_MARKER = re.compile(r"(<use [^>]*?)\s*/>")
MIN_SPAN = 1.0
"""Shortest range of the upright axis, in percent or dB, so that noise does not look like a difference."""


def draw(
    drawn: Sequence[Curve],
    axis: Axis,
    original: float | None,
    *,
    systems: Sequence[str] = (),
    style: Style = "screen",
    legend: bool = True,
) -> Figure:
    """Draw curves over rate, as lines with markers, with light bars for the intervals of points.

    Args:
        drawn: The curves, at least one.
        axis: Vertical axis.
        original: Value on uncompressed images in the axis' unit, drawn as a dashed line; None for no line.
        systems: Names of all codecs of a report, so that each has the same colour in all of its plots.
        style: "screen", or "paper" for a column of 3.4 inches.
        legend: Whether the figure has a legend.
    """
    every = list(dict.fromkeys([*systems, *(curve.system for curve in drawn)]))
    paper = style == "paper"
    with mpl.rc_context(_settings(style)):
        letters = PAPER_LETTERS if paper else LEGEND_LETTERS
        titles = [_short(curve.title, letters) for curve in drawn]
        columns = _legend_columns(titles, letters)
        rows = math.ceil((len(drawn) + (original is not None)) / columns) if legend else 0
        size = (3.4, 2.3 + 0.14 * rows) if paper else (6.4, 4.15 + 0.23 * rows)
        engine = ConstrainedLayoutEngine()
        figure = Figure(figsize=size, layout=engine)
        FigureCanvasAgg(figure)
        plot = figure.add_subplot()
        for number, (curve, title) in enumerate(zip(drawn, titles, strict=True)):
            rates, values = zip(*curve.points, strict=True)
            colour, marker = look(every.index(curve.system))
            plot.plot(
                rates,
                values,
                color=colour,
                marker=marker,
                markersize=3 if paper else 5.5,
                linewidth=1 if paper else 1.8,
                label=title,
                gid=f"{_CURVE_ID}{number}",
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
        if legend:
            figure.legend(
                loc="outside upper left", ncols=columns, frameon=False, columnspacing=1.6, handlelength=1.8
            )
        with _without_missing_glyphs():
            engine.execute(figure)
        figure.set_layout_engine(None)  # the layout stays: each file would compute it again, twice
    return figure


def look(place: int) -> tuple[str, str]:
    """Return the colour and matplotlib marker of a codec by its index in the report's list of codecs."""
    return COLOURS[place % len(COLOURS)], MARKERS[(place + place // len(COLOURS)) % len(MARKERS)]


def legend_keys(systems: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return the colour of each codec of a report by name, and a character that resembles its marker."""
    return {system: (look(place)[0], _CHARACTERS[look(place)[1]]) for place, system in enumerate(systems)}


def with_tooltips(svg: str, drawn: Sequence[Curve], axis: Axis) -> str:
    """Add a tooltip to each point of a figure: codec, quality, rate and value.

    Args:
        svg: Figure of `draw` as SVG text, from `as_svg`.
        drawn: Curves of the figure.
        axis: Axis of the figure.
    """
    for number, curve in enumerate(drawn):
        start = svg.find(f'<g id="{_CURVE_ID}{number}">')
        end = next((m.start() for m in re.compile(r'<g id="(?!m[0-9a-f]{8,})').finditer(svg, start + 1)), -1)
        part = svg[start:end]
        if start < 0 or len(_MARKER.findall(part)) != len(curve.points):
            continue
        texts = iter(
            f"{curve.title}, {quality:g}: {rate:.4f} bpp, {value:.2f} ({axis.title})"
            for (rate, value), quality in zip(curve.points, curve.qualities, strict=True)
        )
        part = _MARKER.sub(lambda m: f"{m[1]}><title>{escape(next(texts))}</title></use>", part)  # noqa: B023  called at once
        part = part.replace(f' id="{_CURVE_ID}{number}"', "", 1)  # a page has several figures
        svg = svg[:start] + part + svg[end:]
    return svg


def _settings(style: Style) -> dict[Any, Any]:
    return {**STYLE, **PAPER} if style == "paper" else STYLE


def _legend_columns(titles: Sequence[str], letters: int) -> int:
    return max(1, min(len(titles) + 1, letters // (max(map(len, titles)) + 4)))


def _short(title: str, letters: int) -> str:
    return title if len(title) <= letters else f"{title[: letters - 1]}…"


def _set_range(plot: Axes, *, is_percent: bool) -> None:
    """Set the vertical range so that noise is not magnified and percentages stay near 0 to 100."""
    low, high = plot.get_ylim()
    if high - low < MIN_SPAN:
        middle = (low + high) / 2
        low, high = middle - MIN_SPAN / 2, middle + MIN_SPAN / 2
    if is_percent:
        low, high = max(low, -2.0), min(high, 102.0)  # markers at 0 and 100 stay whole
    plot.set_ylim(low, high)


def as_svg(figure: Figure, style: Style = "screen") -> str:
    """Return the figure as an <svg> element without XML prologue."""
    text = _save(figure, "svg", style, metadata={"Date": None, "Creator": None}).decode()
    return text[text.index("<svg") :]


def as_png(figure: Figure, style: Style = "screen") -> bytes:
    """Return the figure as a PNG file of 160 dots per inch; 600 for paper."""
    return _save(figure, "png", style, dpi=600 if style == "paper" else 160, metadata={"Software": None})


def as_pdf(figure: Figure, style: Style = "screen") -> bytes:
    """Return the figure as a PDF file of vectors and text."""
    metadata = {"Creator": None, "Producer": None, "CreationDate": None}
    return _save(figure, "pdf", style, metadata=metadata)


def _save(figure: Figure, kind: str, style: Style, **options: Any) -> bytes:  # noqa: ANN401  matplotlib's own options
    buffer = io.BytesIO()
    with mpl.rc_context(_settings(style)), _without_missing_glyphs():
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


@contextmanager
def _without_missing_glyphs() -> Iterator[None]:
    """Ignore warnings about characters that matplotlib's fonts lack; a browser has fonts for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield
