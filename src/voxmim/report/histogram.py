"""Histograms: from values to the bars that the page's template draws as inline SVG."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from voxmim.report.chart import say, tick_texts, ticks

WIDTH, HEIGHT = 360, 230  # of the drawing in its own units
_TOP, _RIGHT, _BOTTOM, _GAP = 12, 22, 46, 1.5
_MOST = 24  # bars


@dataclass
class Histogram:
    """How often a value lies where; `x_label` names it with its unit."""

    title: str
    x_label: str
    values: list[float]


@dataclass
class Bars:
    """A histogram as drawn; bars are (x, y, width, height, what it says), the rest as in a `Chart`."""

    left: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    bars: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    words: str = ""
    width: float = WIDTH
    height: float = HEIGHT
    right: float = WIDTH - _RIGHT
    bottom: float = HEIGHT - _BOTTOM


def lay_out(histogram: Histogram) -> Bars:
    """Lay out the bars of finite values, of which there is at least one, between round ticks."""
    values = np.asarray(histogram.values, dtype=float)
    edges = np.histogram_bin_edges(values, bins="auto")
    if len(edges) - 1 > _MOST:
        edges = np.linspace(edges[0], edges[-1], _MOST + 1)
    counts, _ = np.histogram(values, edges)
    x_values, y_values = ticks(float(edges[0]), float(edges[-1])), ticks(0, float(counts.max()), whole=True)
    y_texts = tick_texts(y_values)
    chart = Bars(left=16 + 7.8 * max(map(len, y_texts)), x_ticks=[], y_ticks=[])

    def x_of(value: float) -> float:
        share = (value - x_values[0]) / (x_values[-1] - x_values[0])
        return round(chart.left + share * (chart.right - chart.left), 2)

    def y_of(count: float) -> float:
        return round(chart.bottom - count / y_values[-1] * (chart.bottom - _TOP), 2)

    chart.x_ticks = [(x_of(tick), text) for tick, text in zip(x_values, tick_texts(x_values), strict=True)]
    chart.y_ticks = [(y_of(tick), text) for tick, text in zip(y_values, y_texts, strict=True)]
    for count, start, stop in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            x, y = x_of(start), y_of(count)
            text = f"{say(float(start))} to {say(float(stop))}: {count:,}"
            chart.bars.append((x, y, max(1.0, round(x_of(stop) - x - _GAP, 2)), round(chart.bottom - y, 2), text))
    chart.words = (
        f"Histogram of {histogram.x_label}: {len(values):,} values from {say(float(values.min()))} "
        f"to {say(float(values.max()))}, half of them up to {say(float(np.median(values)))}."
    )
    return chart
