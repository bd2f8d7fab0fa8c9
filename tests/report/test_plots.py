from __future__ import annotations

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import colormaps
from PIL import Image

from voxmim.report import plots
from voxmim.report.plots import COLOURS, Curve, HeatMap, Histogram, Plot, Point, Scatter, number, png, svg

SVG = "{http://www.w3.org/2000/svg}"
CURVES = [Curve(f"arm {n}", [10, 20, 30], [0.1 * n, 0.2 * n, 0.3 * n]) for n in range(1, 4)]
POINTS = [
    Point("light", "MAE", 1.0, 0.5, (0.4, 0.6)), Point("heavy", "MAE", 2.0, 0.6), Point("linear", "SimMIM", 1.5, 0.4),
]  # fmt: skip
CHARTS = [
    Plot("lines", "step", "Dice", CURVES),
    Histogram("bars", "mm", [1.0, 1.0, 2.0, 5.0]),
    HeatMap("cells", ["a", "b"], ["x", "y"], [[0.1, 0.2], [0.3, None]], "unit", "ratio", "Dice"),
    Scatter("points", "ms", "Dice", POINTS),
]


def pixels(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB")).astype(int)


def shows(image: bytes, colour: str) -> bool:
    """Whether some pixels have the given colour."""
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return bool((np.abs(pixels(image) - rgb).max(axis=-1) <= 2).sum() > 20)


def texts(drawn: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawn).iter(f"{SVG}text")]


def test_each_curve_has_its_own_colour() -> None:
    assert [shows(png(CHARTS[0]), colour) for colour in COLOURS] == [True] * 3 + [False] * 3


def test_series_differ_in_marker_and_line_style_without_colours() -> None:
    assert len(set(COLOURS)) == len(set(plots.MARKERS)) == len({str(line) for line in plots.LINES}) == 6


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title)
def test_a_chart_is_valid_svg_with_the_colours_of_the_page(chart: plots.Chart) -> None:
    drawn = svg(chart, "one")
    assert ElementTree.fromstring(drawn).tag == f"{SVG}svg"
    for colour in (*COLOURS, plots.INK, plots.QUIET, plots.RULE):
        assert colour not in drawn
    assert "var(--quiet)" in drawn
    assert "font-family" not in drawn  # the page's font


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title)
def test_ids_of_two_charts_on_a_page_differ(chart: plots.Chart) -> None:
    first, second = (set(re.findall(r' id="([^"]*)"', svg(chart, name))) for name in ("one", "two"))
    assert not first & second


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title)
def test_drawing_a_chart_is_deterministic(chart: plots.Chart) -> None:
    assert svg(chart, "one") == svg(chart, "one")
    assert png(chart) == png(chart)


def test_hostile_texts_are_escaped() -> None:
    hostile = "<script>alert(1)</script> & $x^2$"
    drawn = svg(Plot("t", hostile, hostile, [Curve(hostile, [1, 2], [1.0, 2.0])]), "one")
    assert [text for text in texts(drawn) if "script" in text] == [hostile, hostile, f"{hostile}, last 2.00"]


def test_a_png_has_a_title_and_an_svg_leaves_it_to_the_page() -> None:
    assert "lines" not in texts(svg(CHARTS[0], "one"))
    assert len(png(Plot("", "step", "Dice", CURVES))) != len(png(CHARTS[0]))


def test_the_legend_gives_the_last_value() -> None:
    drawn = texts(svg(Plot("t", "x", "y", [Curve("a", [1, 2, 3], [0.5, 0.25, float("nan")]), Curve("b", [], [])]), "1"))
    assert {"a, last 0.250", "b, last none"} <= set(drawn)


def test_degenerate_curves_are_drawn() -> None:
    nan = float("nan")
    curves = [Curve("one", [3], [0.5]), Curve("flat", [0, 9], [0.5, 0.5]), Curve("gap", [0, 1, 2], [0.1, nan, 0.2])]
    for chart in (Plot("p", "x", "y", curves), Plot("q", "x", "y", [])):
        assert not re.search(r"\b(nan|inf)\b", svg(chart, "one"))
        assert pixels(png(chart)).shape[2] == 3


def test_a_heat_map_is_lighter_for_larger_values_and_shows_the_values() -> None:
    assert {"0.100", "0.200", "0.300", "missing"} <= set(texts(svg(CHARTS[2], "one")))
    image = pixels(png(CHARTS[2]))
    expected = [np.array(colormaps["cividis"](fraction)[:3]) * 255 for fraction in (0.0, 0.5, 1.0)]
    for colour in expected:
        assert (np.abs(image - colour).max(axis=-1) < 3).sum() > 1000


@pytest.mark.parametrize("values", [[[0.5, 0.5]], [[None, None]]])
def test_a_heat_map_of_equal_or_missing_values_is_drawn(values: list[list[float | None]]) -> None:
    assert len(png(HeatMap("t", ["a"], ["x", "y"], values, "rows", "columns", "Dice"))) > 1000


def test_points_have_the_colour_of_their_series_and_numbered_names() -> None:
    assert {"1  light", "2  heavy", "3  linear"} <= set(texts(svg(CHARTS[3], "one")))
    assert [shows(png(CHARTS[3]), colour) for colour in COLOURS[:3]] == [True, True, False]


def test_charts_have_descriptions_for_screen_readers() -> None:
    assert CHARTS[0].words.endswith("arm 1 ends at 0.300; arm 2 ends at 0.600; arm 3 ends at 0.900.")
    assert CHARTS[1].words == "Histogram of mm: 4 values from 1.00 to 5.00, median 1.50."
    assert "b, y: missing" in CHARTS[2].words
    assert "heavy: 2.00, 0.600" in CHARTS[3].words


@pytest.mark.parametrize(("value", "text"), [(0.12345, "0.123"), (1234.5, "1,234"), (100.0, "100"), (2e12, "2.00e+12")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text
