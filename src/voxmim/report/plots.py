"""Charts with matplotlib: as SVG in the light or dark colours of a page, and as PNG.

They can be read without colours: each series has its own line and marker, and heat maps contain their values. Each
chart has a title, a caption, a size in inches, `words` for screen readers, and `draw`, which draws on empty axes.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLOURS = ("#0072b2", "#c84e00", "#00795a", "#a8497f", "#6b5b00", "#4a4f57")
MARKERS = "osD^vP"
LINES = ("-", (0, (6, 3)), (0, (1, 1.5)), (0, (8, 2, 1, 2)), (0, (3, 2)), (0, (10, 3)))
INK, QUIET, RULE = "#1b1f24", "#57606c", "#dde1e6"
# Variables of the page's style sheet, with other values in dark mode.
_VARIABLES = {**{colour: f"--s{i}" for i, colour in enumerate(COLOURS)}, INK: "--ink", QUIET: "--quiet", RULE: "--rule"}
_STYLE: Any = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 11,
    "axes.titlesize": 12, "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.edgecolor": QUIET,
    "axes.labelcolor": QUIET, "text.color": INK, "xtick.color": QUIET, "ytick.color": QUIET, "grid.color": RULE,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "legend.frameon": False,
    "legend.fontsize": 10, "legend.handlelength": 3.2, "figure.constrained_layout.use": True,
}  # fmt: skip
_MAX_MARKED, _MAX_BARS = 40, 24


@dataclass
class Curve:
    """One line of a plot; values that are not finite are gaps."""

    name: str  # in the legend
    steps: list[int]  # x
    values: list[float]  # y
    band: tuple[list[float], list[float]] | None = None  # lower and upper bounds of a shaded band

    @property
    def last(self) -> str:
        """The last finite value."""
        finite = [value for value in self.values if np.isfinite(value)]
        return number(finite[-1]) if finite else "none"


@dataclass
class Plot:
    """Curves on common axes."""

    title: str
    x_label: str
    y_label: str
    curves: list[Curve]
    caption: str = ""
    size: tuple[float, float] = field(default=(6.4, 4.2), repr=False)

    @property
    def words(self) -> str:
        """The ends of the curves."""
        ends = "; ".join(f"{curve.name} ends at {curve.last}" for curve in self.curves)
        return f"Line chart of {self.y_label} against {self.x_label}. {ends}."

    def draw(self, axes: Axes) -> None:
        for i, curve in enumerate(self.curves):
            colour, line, marker = COLOURS[i % 6], LINES[i % 6], MARKERS[i % 6]
            shown = marker if len(curve.steps) <= _MAX_MARKED else None
            label = f"{curve.name}, last {curve.last}"
            axes.plot(curve.steps, curve.values, color=colour, linestyle=line, label=label, marker=shown, markersize=4)
            if curve.band:
                axes.fill_between(curve.steps, *curve.band, color=colour, alpha=0.16, linewidth=0)
        axes.set(xlabel=self.x_label, ylabel=self.y_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
        if self.curves:
            narrow = max(len(curve.name) for curve in self.curves) > 26
            axes.figure.legend(loc="outside upper left", ncols=1 if narrow else 2)


@dataclass
class Histogram:
    """A histogram of values of scans; `x_label` has their unit."""

    title: str
    x_label: str
    values: list[float]
    caption: str = ""
    size: tuple[float, float] = field(default=(4.2, 2.8), repr=False)

    @property
    def words(self) -> str:
        """Range and median."""
        low, median, high = (number(float(value)) for value in np.quantile(self.values, [0, 0.5, 1]))
        return f"Histogram of {self.x_label}: {len(self.values):,} values from {low} to {high}, median {median}."

    def draw(self, axes: Axes) -> None:
        edges = np.histogram_bin_edges(self.values, bins="auto")
        axes.hist(self.values, bins=min(len(edges) - 1, _MAX_BARS), color=COLOURS[0], rwidth=0.92)
        axes.set(xlabel=self.x_label, ylabel="scans")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.grid(axis="y")


@dataclass
class HeatMap:
    """A table of values as colours with text; None is missing."""

    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    row_label: str
    column_label: str
    value_label: str
    caption: str = ""

    @property
    def size(self) -> tuple[float, float]:
        """Larger with more cells."""
        return 3.2 + 0.95 * len(self.columns), 1.6 + 0.7 * len(self.rows)

    @property
    def words(self) -> str:
        """Every cell."""
        return "; ".join(
            f"{row}, {column}: {_cell(value)}"
            for row, line in zip(self.rows, self.values, strict=True)
            for column, value in zip(self.columns, line, strict=True)
        )

    def draw(self, axes: Axes) -> None:
        table = np.array([[np.nan if value is None else value for value in line] for line in self.values], dtype=float)
        finite = table[np.isfinite(table)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        image = axes.imshow(table, cmap="cividis", aspect="auto", vmin=low, vmax=max(high, low + 1e-9))
        for (row, column), value in np.ndenumerate(table):
            ink = INK if not np.isfinite(value) else "white" if value < (low + high) / 2 else "black"
            axes.text(column, row, _cell(value), ha="center", va="center", fontsize=10, color=ink)
        axes.set_xticks(range(len(self.columns)), self.columns)
        axes.set_yticks(range(len(self.rows)), self.rows)
        axes.set(xlabel=self.column_label, ylabel=self.row_label)
        axes.figure.colorbar(image, label=self.value_label)


@dataclass(frozen=True)
class Point:
    """One point of a scatter plot with the ends of its error bar; `series` determines colour and marker."""

    name: str
    series: str
    x: float
    y: float
    interval: tuple[float, float] | None = None


@dataclass
class Scatter:
    """Numbered points with vertical error bars."""

    title: str
    x_label: str
    y_label: str
    points: Sequence[Point]
    caption: str = ""
    size: tuple[float, float] = field(default=(8.4, 4.4), repr=False)

    @property
    def words(self) -> str:
        """Every point."""
        points = "; ".join(f"{point.name}: {number(point.x)}, {number(point.y)}" for point in self.points)
        return f"{self.y_label} against {self.x_label}. {points}."

    def draw(self, axes: Axes) -> None:
        series = list(dict.fromkeys(point.series for point in self.points))
        for i, point in enumerate(self.points, start=1):
            kind = series.index(point.series) % 6
            low, high = point.interval or (point.y, point.y)
            error = [[max(point.y - low, 0)], [max(high - point.y, 0)]]
            look: Any = {"fmt": MARKERS[kind], "color": COLOURS[kind], "capsize": 3, "markersize": 7, "elinewidth": 1}
            axes.errorbar([point.x], [point.y], yerr=error, label=f"{i}  {point.name}", **look)
            axes.annotate(str(i), (point.x, point.y), xytext=(6, 4), textcoords="offset points")
        axes.set(xlabel=self.x_label, ylabel=self.y_label)
        axes.margins(x=0.1)
        axes.grid()
        if self.points:
            axes.figure.legend(loc="outside right upper")


Chart = Plot | Histogram | HeatMap | Scatter


def png(chart: Chart) -> bytes:
    """A chart as PNG."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=chart.size)
        axes = figure.add_subplot(title=chart.title)
        chart.draw(axes)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def svg(chart: Chart, name: str) -> str:
    """A chart as an SVG element without title; `name` makes its ids unique on a page."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=chart.size)
        chart.draw(figure.add_subplot())
        buffer = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>|<!--.*?-->|font-family: [^;\"]*;? ?", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # ids of matplotlib, which are the same in all charts
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text


def number(value: float) -> str:
    """A value with three significant digits, or with thousands separators from 1000 on."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:#.3g}".rstrip(".")


def _cell(value: float | None) -> str:
    return "missing" if value is None or not np.isfinite(value) else f"{value:.3f}"
