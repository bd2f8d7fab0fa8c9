from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxmim.report.histogram import Histogram, lay_out


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=300))
def test_bars_hold_every_value_within_the_axes(values: list[float]) -> None:
    chart = lay_out(Histogram("Volume", "ml", values))
    assert sum(int(text.rsplit(": ", 1)[1].replace(",", "")) for *_, text in chart.bars) == len(values)
    for x, y, width, height, _ in chart.bars:
        assert chart.left - 0.1 <= x <= x + width <= chart.right + 1
        assert y >= 11.9
        assert y + height == pytest.approx(chart.bottom, abs=0.02)
    assert f"{len(values):,} values" in chart.words


def test_bars_are_as_high_as_their_counts() -> None:
    chart = lay_out(Histogram("Volume", "ml", [1.0] * 30 + [2.0] * 10 + list(np.linspace(1, 2, 5))))
    heights = [height for _, _, _, height, _ in chart.bars]
    assert heights[0] > 2.5 * heights[-1] > 0
