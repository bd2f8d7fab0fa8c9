from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxmim.report.chart import Chart, Curve, Plot, draw, say, tick_texts


def vertices(path: str) -> list[list[tuple[float, float]]]:
    """The pieces of an SVG path and their points."""
    pieces = [piece.rstrip("Z") for piece in path.split("M") if piece]
    return [[tuple(map(float, point.split())) for point in piece.split("L")] for piece in pieces]


def assert_inside(chart: Chart, points: list[tuple[float, float]]) -> None:
    for x, y in points:
        assert chart.left - 0.01 <= x <= chart.right + 0.01
        assert chart.top - 0.01 <= y <= chart.bottom + 0.01


numbers = st.floats(-1e12, 1e12) | st.floats(-1, 1) | st.just(math.nan) | st.just(math.inf)
curves = st.lists(st.tuples(st.integers(0, 10**6), numbers, numbers), min_size=0, max_size=60).map(
    lambda rows: Curve(
        "c",
        sorted(step for step, _, _ in rows),
        [a for _, a, _ in rows],
        ([min(a, b) for _, a, b in rows], [max(a, b) for _, a, b in rows]),
    )
)


@settings(max_examples=150, deadline=None)
@given(st.lists(curves, max_size=3), st.booleans())
def test_every_value_lands_in_the_box_and_every_other_is_a_gap(drawn: list[Curve], log_y: bool) -> None:
    chart = draw(Plot("t", "step", "loss", drawn, log_y=log_y))
    assert len(chart.lines) == len(drawn)
    for curve, line in zip(drawn, chart.lines, strict=True):
        pieces = vertices(line.path)
        wanted = [math.isfinite(v) and (v > 1e-300 or not log_y) for v in curve.values]
        assert sum(map(len, pieces)) == sum(wanted)
        starts = sum(now and not before for before, now in zip([False, *wanted], wanted, strict=False))
        assert len(pieces) == starts
        assert_inside(chart, [point for piece in pieces for point in piece])
        assert_inside(chart, [point for piece in vertices(line.band) for point in piece])
        assert_inside(chart, [(x, y) for x, y, _ in line.points])
        lonely = {piece[0] for piece in pieces if len(piece) == 1}
        assert lonely <= {(x, y) for x, y, _ in line.points}  # a path of one point would show nothing
    for positions in (chart.x_ticks, chart.y_ticks):
        assert len({text for _, text in positions}) == len(positions) >= 2
    assert_inside(chart, [(x, chart.top) for x, _ in chart.x_ticks] + [(chart.left, y) for y, _ in chart.y_ticks])


def test_positions_agree_with_the_ticks() -> None:
    chart = draw(Plot("t", "step", "Dice", [Curve("c", [0, 50, 100], [0.0, 0.25, 1.0])]))
    assert [text for _, text in chart.x_ticks] == ["0", "20", "40", "60", "80", "100"]
    assert [text for _, text in chart.y_ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    (piece,) = vertices(chart.lines[0].path)
    assert piece[0] == (chart.left, chart.bottom)
    assert piece[1] == pytest.approx(((chart.left + chart.right) / 2, chart.bottom - (chart.bottom - chart.top) / 4))
    assert piece[2] == (chart.right, chart.top)


def test_a_log_scale_makes_ratios_distances() -> None:
    chart = draw(Plot("t", "step", "loss", [Curve("c", [0, 1, 2, 3], [1.0, 0.1, 0.01, 0.0])], log_y=True))
    (piece,) = vertices(chart.lines[0].path)
    assert [y for _, y in piece] == pytest.approx([chart.top, (chart.top + chart.bottom) / 2, chart.bottom])
    assert [text for _, text in chart.y_ticks] == ["0.01", "0.02", "0.05", "0.10", "0.20", "0.50", "1.00"]


def test_many_decades_have_few_ticks() -> None:
    chart = draw(Plot("t", "step", "loss", [Curve("c", [0, 1], [1e-9, 1e9])], log_y=True))
    assert [text for _, text in chart.y_ticks] == ["1e-09", "1e-06", "0.001", "1", "1000", "1e+06", "1e+09"]


def test_a_band_surrounds_its_curve() -> None:
    chart = draw(Plot("t", "step", "Dice", [Curve("c", [0, 1], [0.5, 0.6], ([0.4, 0.5], [0.6, 0.7]))]))
    ((a, b),) = vertices(chart.lines[0].path)
    ((low_a, low_b, high_b, high_a),) = vertices(chart.lines[0].band)
    assert low_a[1] > a[1] > high_a[1]
    assert low_b[1] > b[1] > high_b[1]
    assert low_a[0] == high_a[0] == a[0]


def test_points_say_their_value_and_long_curves_show_none() -> None:
    short, long = (draw(Plot("t", "s", "v", [Curve("c", list(range(n)), [0.5] * n)])).lines[0] for n in (3, 500))
    assert [text for _, _, text in short.points] == ["c, 0: 0.500", "c, 1: 0.500", "c, 2: 0.500"]
    assert long.points == []
    assert len(re.findall("L", long.path)) == 499
    gaps = Curve("c", list(range(500)), [math.nan] * 250 + [0.5] + [math.nan] * 249)  # a path of one point is invisible
    assert [text for _, _, text in draw(Plot("t", "s", "v", [gaps])).lines[0].points] == ["c, 250: 0.500"]


def test_the_words_tell_where_each_curve_ends() -> None:
    drawn = [Curve("scratch", [0, 9], [0.1, 0.801]), Curve("empty", [], []), Curve("lost", [1], [math.nan])]
    words = draw(Plot("t", "step", "Dice", drawn)).words
    assert words == "Line chart of Dice against step. scratch ends at 0.801; empty ends at none; lost ends at none."


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="'c' has columns of different lengths"):
        Curve("c", [0, 1], [0.5])
    with pytest.raises(ValueError, match="different lengths"):
        Curve("c", [0], [0.5], ([0.1], []))


def test_numbers_in_words() -> None:
    assert [say(v) for v in (0.81, 12345.6, 100.0, 0.0000213, 0.0)] == ["0.810", "12,346", "100", "2.13e-05", "0.00"]
    assert tick_texts([-0.5, -0.0, 0.5]) == ["−0.5", "0.0", "0.5"]
    assert tick_texts([0.0, 20000.0]) == ["0", "20,000"]
    assert tick_texts([0.0, 2e-8]) == ["0", "2e-08"]
