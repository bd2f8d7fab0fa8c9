"""Plots as PNG bytes, for pages that cannot draw: curves, heat maps, points with error bars.

Whoever sees no colours, or prints in grey, can read them: each series has its own marker and line, heat maps grow
lighter with their values and have each of these written in.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from voxmim.report.chart import Plot

COLOURS = ("#0072b2", "#c84e00", "#00795a", "#a8497f", "#6b5b00", "#4a4f57")  # those of the page's charts
_MARKERS = "osD^vP"
_LINES = ("-", (0, (6, 3)), (0, (1, 1.5)), (0, (8, 2, 1, 2)), (0, (3, 2)), (0, (10, 3)))
_DPI = 120


@dataclass(frozen=True)
class Point:
    """One point of a scatter plot, with the ends of its error bars; `series` decides its marker and colour."""

    name: str
    series: str
    x: float
    y: float
    y_interval: tuple[float, float] | None = None


def plot_png(plot: Plot) -> bytes:
    """The curves of a plot, with their bands."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    few = all(len(curve.steps) <= 40 for curve in plot.curves)
    for number, curve in enumerate(plot.curves):
        kind = number % len(COLOURS)
        axes.plot(
            curve.steps, curve.values, color=COLOURS[kind], linestyle=_LINES[kind], label=curve.name,
            marker=_MARKERS[kind] if few else None, markersize=5,
        )  # fmt: skip
        if curve.band:
            axes.fill_between(curve.steps, *curve.band, color=COLOURS[kind], alpha=0.15, linewidth=0)
    if plot.log_y:
        axes.set_yscale("log")
    axes.set(title=plot.title, xlabel=plot.x_label, ylabel=plot.y_label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if plot.curves:
        axes.legend(fontsize=9)
    return _png(figure)


def heat_map(
    title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]],
    axes_names: tuple[str, str], bar: str,
) -> bytes:  # fmt: skip
    """A table of values as colours, each written into its cell; None is a hole.

    Args:
        title: above it.
        rows, columns: names of the cells.
        values: row by row.
        axes_names: what rows and columns are.
        bar: what the values are.
    """
    table = np.array([[np.nan if value is None else value for value in row] for row in values], dtype=float)
    figure = Figure(figsize=(2.6 + 1.05 * len(columns), 1.7 + 0.75 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    seen = table[np.isfinite(table)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    image = axes.imshow(table, cmap="cividis", aspect="auto", vmin=low, vmax=high if high > low else low + 1e-9)
    for (row, column), value in np.ndenumerate(table):
        dark = np.isfinite(value) and value < (low + high) / 2
        text = f"{value:.3f}" if np.isfinite(value) else "not there"
        axes.text(column, row, text, ha="center", va="center", fontsize=9, color="white" if dark else "black")
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(title=title, xlabel=axes_names[1], ylabel=axes_names[0])
    figure.colorbar(image, label=bar)
    return _png(figure)


def scatter(title: str, points: Sequence[Point], x_label: str, y_label: str) -> bytes:
    """Numbered points with vertical error bars, and their names beside them."""
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = figure.add_subplot()
    series = list(dict.fromkeys(point.series for point in points))
    for number, point in enumerate(points, start=1):
        kind = series.index(point.series) % len(COLOURS)
        low, high = point.y_interval or (point.y, point.y)
        axes.errorbar(
            [point.x], [point.y], yerr=[[max(point.y - low, 0)], [max(high - point.y, 0)]], fmt=_MARKERS[kind],
            color=COLOURS[kind], label=f"{number}  {point.name}", capsize=3, markersize=7, elinewidth=1,
        )  # fmt: skip
        axes.annotate(str(number), (point.x, point.y), xytext=(6, 4), textcoords="offset points", fontsize=10)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.margins(x=0.1)
    axes.grid(alpha=0.3)
    if points:
        axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.01, 0.5))
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
