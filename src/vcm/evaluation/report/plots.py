"""Rate curves, drawn with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vcm.evaluation.curves import Axis, Curve

# Okabe and Ito's palette: told apart by people with any colour vision, and by marker where colours run out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {"svg.fonttype": "none", "svg.hashsalt": "vcm", "font.family": "sans-serif", "font.size": 10}


def draw(drawn: Sequence[Curve], axis: Axis, original: float | None) -> Figure:
    """One figure: a line with markers for each curve over rate.

    Args:
        drawn: The curves.
        axis: What they show.
        original: The value on uncompressed pictures in the axis' unit, drawn as a dashed line; None for none.
    """
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # matplotlib lists every key; these are some
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        plot = figure.add_subplot()
        for place, curve in enumerate(drawn):
            rates, values = zip(*curve.points, strict=True)
            plot.plot(
                rates,
                values,
                color=COLOURS[place % len(COLOURS)],
                marker=MARKERS[(place + place // len(COLOURS)) % len(MARKERS)],
                markersize=5,
                linewidth=1.6,
                label=curve.title,
            )
        if original is not None:
            plot.axhline(original, color="#777777", linewidth=1, linestyle="--", label="originals")
        plot.set_xlim(left=0)
        plot.set_xlabel("rate (bits per pixel, Σ bits / Σ pixels)")
        plot.set_ylabel(axis.title)
        plot.grid(color="#dddddd", linewidth=0.6)
        plot.set_axisbelow(True)
        plot.spines[["top", "right"]].set_visible(False)
        plot.legend(frameon=False, loc="best")
    return figure


def as_svg(figure: Figure) -> str:
    """The figure as an <svg> element, without the XML prologue."""
    text = _save(figure, "svg", metadata={"Date": None, "Creator": None}).decode()
    return text[text.index("<svg") :]


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file, at 160 dots an inch."""
    return _save(figure, "png", dpi=160, metadata={"Software": None})


def _save(figure: Figure, kind: str, **options: Any) -> bytes:  # noqa: ANN401  matplotlib's own options
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]  # as above
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
