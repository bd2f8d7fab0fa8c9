"""Line charts: from values to the geometry that the page's template draws as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 460, 300  # of the drawing in its own units; small enough that its text stays legible on a phone
_RIGHT, _TOP, _BOTTOM = 24, 34, 48
_FEW = 40  # a curve of no more points than this shows each of them


@dataclass
class Curve:
    """One line of a plot.

    Attributes:
        name: what the legend says.
        steps, values: where the line goes; a value that is not finite (or, on a log scale, not positive) is a gap.
        band: lower and upper bounds of a shaded band, of the values' length.
    """

    name: str
    steps: list[int]
    values: list[float]
    band: tuple[list[float], list[float]] | None = None

    def __post_init__(self) -> None:
        if any(len(column) != len(self.steps) for column in (self.values, *(self.band or ()))):
            raise ValueError(f"The curve '{self.name}' has columns of different lengths.")


@dataclass
class Plot:
    """Curves over common axes; `log_y` gives the vertical axis a logarithmic scale."""

    title: str
    x_label: str
    y_label: str
    curves: list[Curve]
    caption: str = ""
    log_y: bool = False


@dataclass
class Line:
    """A curve as drawn: paths in SVG's notation, points as (x, y, what it says), the last value in words."""

    name: str
    path: str
    band: str
    points: list[tuple[float, float, str]]
    last: str


@dataclass
class Chart:
    """A plot as drawn, within a view of `width` x `height`.

    The axes span the box from (left, top) to (right, bottom), y growing downwards. Ticks are pairs of position
    and text; `words` tells the plot to those who cannot see it.
    """

    left: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line] = field(default_factory=list)
    words: str = ""
    width: float = WIDTH
    height: float = HEIGHT
    top: float = _TOP
    right: float = WIDTH - _RIGHT
    bottom: float = HEIGHT - _BOTTOM


def draw(plot: Plot) -> Chart:
    """Lay out a plot: round ticks, the vertical axis from tick to tick, the horizontal one as long as the curves."""

    lowest = 1e-300 if plot.log_y else -1e300  # further out, ticks would leave the range of floats

    def drawable(value: float) -> bool:
        return lowest < value < 1e300  # which NaN is not

    xs = [step for curve in plot.curves for step in curve.steps]
    columns = [column for curve in plot.curves for column in (curve.values, *(curve.band or ()))]
    ys = [value for column in columns for value in column if drawable(value)]
    y_values = _log_ticks(*_ends(ys, log=True)) if plot.log_y else ticks(*_ends(ys))
    y_texts = tick_texts(y_values)
    x_low, x_high = _ends(xs)
    x_values = [tick for tick in ticks(x_low, x_high, whole=True) if x_low <= tick <= x_high]
    chart = Chart(left=16 + 7.8 * max(len(text) for text in y_texts), x_ticks=[], y_ticks=[])
    scale: Callable[[float], float] = math.log10 if plot.log_y else float
    low, high = scale(y_values[0]), scale(y_values[-1])

    def x_of(step: float) -> float:
        return round(chart.left + (step - x_low) / (x_high - x_low) * (chart.right - chart.left), 2)

    def y_of(value: float) -> float:
        return round(chart.bottom - (scale(value) - low) / (high - low) * (chart.bottom - chart.top), 2)

    chart.x_ticks = [(x_of(tick), text) for tick, text in zip(x_values, tick_texts(x_values), strict=True)]
    chart.y_ticks = [(y_of(tick), text) for tick, text in zip(y_values, y_texts, strict=True)]
    for curve in plot.curves:
        runs = _runs(zip(curve.steps, curve.values, strict=True), drawable)
        points = [[(x_of(s), y_of(v), f"{curve.name}, {s:,}: {say(v)}") for s, v in run] for run in runs]
        seen = points if len(curve.steps) <= _FEW else [run for run in points if len(run) == 1]
        band = ""
        if curve.band:
            for part in _runs(zip(curve.steps, *curve.band, strict=True), drawable):
                lower, upper = ([(x_of(row[0]), y_of(row[side])) for row in part] for side in (1, 2))
                band += f"M{_joined(lower + upper[::-1])}Z"
        chart.lines.append(
            Line(
                name=curve.name,
                path="".join(f"M{_joined((x, y) for x, y, _ in run)}" for run in points),
                band=band,
                points=[point for run in seen for point in run],
                last=say(runs[-1][-1][1]) if runs else "none",
            )
        )
    chart.words = _words(plot, chart.lines)
    return chart


def say(value: float) -> str:
    """A value in three digits, large ones as whole numbers."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:#.3g}".rstrip(".")


def tick_texts(ticks: list[float]) -> list[str]:
    """The texts of two or more rising ticks, all with the decimals that they need; tiny and huge ones as powers."""
    fine = 1e-6 * min(b - a for a, b in pairwise(ticks))
    decimals = next((d for d in range(6) if all(abs(round(t, d) - t) <= fine for t in ticks)), None)
    if decimals is None or max(map(abs, ticks)) >= 1e9:
        return [f"{tick:g}" for tick in ticks]
    return [f"{round(tick, decimals) + 0.0:,.{decimals}f}".replace("-", "−") for tick in ticks]


def _ends(values: Iterable[float], log: bool = False) -> tuple[float, float]:
    """The lowest and highest value, apart from each other even where there is one value or none."""
    values = list(values)
    if not values:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(min(values)), float(max(values))
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    pad = abs(low) / 10 or 1.0
    return low - pad, high + pad


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Some round numbers from below `low` to above `high`."""
    locator = MaxNLocator(nbins=5, steps=[1, 2, 5, 10], integer=whole)
    return [float(tick) for tick in locator.tick_values(low, high)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade, or as few decades as leave them readable, from below `low` to above `high`."""
    first, last = math.floor(math.log10(low) + 1e-12), math.ceil(math.log10(high) - 1e-12)
    if last - first <= 2:
        ticks = [m * 10.0**e for e in range(first, last) for m in (1, 2, 5)] + [10.0**last]
        start = max(index for index, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
        stop = min(index for index, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
        return ticks[start : max(stop, start + 1) + 1]
    stride = math.ceil((last - first) / 6)
    return [10.0**e for e in range(first, last + stride, stride)]


def _runs(rows: Iterable[tuple[float, ...]], drawable: Callable[[float], bool]) -> list[list[tuple[float, ...]]]:
    """Cut rows of (step, values…) where a value cannot be drawn."""
    runs: list[list[tuple[float, ...]]] = [[]]
    for row in rows:
        if all(drawable(value) for value in row[1:]):
            runs[-1].append(row)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _joined(points: Iterable[tuple[float, float]]) -> str:
    return "L".join(f"{x:g} {y:g}" for x, y in points)


def _words(plot: Plot, lines: list[Line]) -> str:
    ends = "; ".join(f"{line.name} ends at {line.last}" for line in lines)
    return f"Line chart of {plot.y_label} against {plot.x_label}. {ends}."
