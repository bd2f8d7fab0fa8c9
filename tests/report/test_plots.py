from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from voxmim.report import plots
from voxmim.report.chart import Curve, Plot
from voxmim.report.plots import COLOURS, Point, heat_map, plot_png, scatter


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def shows(png: bytes, colour: str) -> bool:
    """Whether some pixels are of a colour."""
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return bool((np.abs(pixels(png) - rgb).max(axis=-1) <= 2).sum() > 20)


def luminance(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


def test_each_curve_is_drawn_in_its_own_colour() -> None:
    curves = [Curve(f"arm {n}", [10, 20, 30], [0.1 * n, 0.2 * n, 0.3 * n]) for n in range(1, 4)]
    png = plot_png(Plot("title", "step", "Dice", curves))
    assert [shows(png, colour) for colour in COLOURS] == [True] * 3 + [False] * 3


def test_a_plot_without_curves_is_drawn_too() -> None:
    assert pixels(plot_png(Plot("title", "step", "Dice", []))).shape[2] == 3


def test_series_differ_in_marker_and_line_for_those_who_see_no_colours() -> None:
    assert len(set(COLOURS)) == len(set(plots._MARKERS)) == len({str(line) for line in plots._LINES}) == 6


def test_a_heat_map_grows_lighter_with_its_values_and_leaves_holes_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    real = plots.Figure.add_subplot

    def spied(figure: plots.Figure, *given: object) -> object:
        axes = real(figure, *given)
        write = axes.text
        axes.text = lambda x, y, text, **how: texts.append(text) or write(x, y, "", **how)
        return axes

    monkeypatch.setattr(plots.Figure, "add_subplot", spied)
    image = pixels(heat_map("t", ["a", "b"], ["x", "y"], [[0.1, 0.2], [0.3, None]], ("rows", "columns"), "Dice"))
    assert texts == ["0.100", "0.200", "0.300", "not there"]
    from matplotlib import colormaps

    expected = [np.array(colormaps["cividis"](share)[:3]) * 255 for share in (0.0, 0.5, 1.0)]
    assert list(luminance(np.array(expected))) == sorted(luminance(np.array(expected)))
    for colour in expected:
        assert (np.abs(image - colour).max(axis=-1) < 3).sum() > 1000


def test_values_that_are_all_the_same_or_all_missing_are_drawn() -> None:
    for values in ([[0.5, 0.5]], [[None, None]]):
        assert len(heat_map("t", ["a"], ["x", "y"], values, ("rows", "columns"), "Dice")) > 1000


def test_points_have_their_series_colour_and_numbered_names(monkeypatch: pytest.MonkeyPatch) -> None:
    labels: list[str] = []
    real = plots.Figure.savefig

    def spied(figure: plots.Figure, *given: object, **how: object) -> None:
        labels.extend(text.get_text() for text in figure.axes[0].get_legend().get_texts())
        real(figure, *given, **how)

    monkeypatch.setattr(plots.Figure, "savefig", spied)
    points = [Point("light", "MAE", 1.0, 0.5, (0.4, 0.6)), Point("heavy", "MAE", 2.0, 0.6)]
    points.append(Point("linear", "SimMIM", 1.5, 0.4))
    png = scatter("t", points, "ms", "Dice")
    assert labels == ["1  light", "2  heavy", "3  linear"]
    assert [shows(png, colour) for colour in COLOURS[:3]] == [True, True, False]
