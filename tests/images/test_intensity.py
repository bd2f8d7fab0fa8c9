from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from voxmim.images.intensity import Intensity, fit_intensity, foreground_box, thinned, unwindow, window

WINDOW = (-175.0, 250.0)


def brain(background: float = 0.0, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy ball in a constant background, and the mask of the ball."""
    rng = np.random.default_rng(0)
    where = np.indices((24, 26, 22)) - np.array([11, 14, 10])[:, None, None, None]
    ball = np.sum(where**2, axis=0) < 64
    return np.where(ball, background + scale * rng.normal(400, 50, ball.shape), background).astype(np.float32), ball


def box_of(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    indices = np.argwhere(mask)
    return tuple(
        slice(max(0, a - margin), min(n, b + 1 + margin))
        for a, b, n in zip(indices.min(axis=0), indices.max(axis=0), mask.shape, strict=True)
    )


def test_ct_keeps_hounsfield_units() -> None:
    rule = fit_intensity("ct", np.zeros((3, 3, 3)))
    array = np.array([-3024, -1024, -999.6, 0.4, 40, 3071, 9000], dtype=np.float32)
    stored = rule.apply(array)
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored, [-1024, -1024, -1000, 0, 40, 3071, 3071])
    np.testing.assert_array_equal(rule.invert(stored), stored.astype(np.float32))


@pytest.mark.parametrize("scale", [0.01, 1.0, 4000.0])
@pytest.mark.parametrize("background", [0.0, -2.5])
def test_mr_becomes_the_z_score_of_the_foreground_for_any_scale(scale: float, background: float) -> None:
    array, ball = brain(background, scale)
    rule = fit_intensity("mr", array)
    stored = rule.apply(array)
    assert stored.dtype == np.float16
    assert stored[ball].astype(float).mean() == pytest.approx(0, abs=0.02)
    assert stored[ball].astype(float).std() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(rule.invert(stored)[ball], array[ball], atol=3e-3 * scale * 50)


def test_mr_outliers_are_clipped_and_do_not_change_the_z_score() -> None:
    array, ball = brain()
    bright = array.copy()
    bright[tuple(np.argwhere(ball)[:3].T)] = 1e6
    rule, stored = fit_intensity("mr", array), fit_intensity("mr", bright).apply(bright)
    assert stored.max() == 10
    np.testing.assert_allclose(stored[ball][3:].astype(float), rule.apply(array)[ball][3:].astype(float), atol=0.1)


def test_noisy_air_is_not_foreground() -> None:
    array, ball = brain()
    noisy = np.where(ball, array, np.abs(np.random.default_rng(1).normal(0, 5, array.shape)))
    rule = fit_intensity("mr", noisy.astype(np.float32))
    assert rule.centre == pytest.approx(400, rel=0.02)
    assert rule.scale == pytest.approx(50, rel=0.1)


@pytest.mark.parametrize("array", [np.zeros((4, 4, 4)), np.eye(4)[None].repeat(4, 0)])
def test_mr_with_almost_no_content_stays_finite(array: np.ndarray) -> None:
    rule = fit_intensity("mr", array.astype(np.float32))
    assert np.all(np.isfinite(rule.apply(array)))
    assert rule.scale > 0


@given(st.floats(-1e4, 1e4), st.floats(1e-2, 1e4), hnp.arrays(np.float32, 20, elements=st.floats(-9, 9, width=32)))
@settings(max_examples=50, deadline=None)
def test_the_mr_rule_can_be_inverted(centre: float, scale: float, scores: np.ndarray) -> None:
    rule = Intensity("mr", centre, scale)
    units = rule.invert(scores)
    again = rule.invert(rule.apply(units))
    np.testing.assert_allclose(again, units, atol=scale * 0.01 + abs(centre) * 1e-5)


@given(
    hnp.arrays(np.int16, (2, 3, 4), elements=st.integers(-1024, 3071)),
    st.floats(-500, 0).flatmap(lambda low: st.tuples(st.just(low), st.floats(low + 1, 1000))),
)
@settings(max_examples=50, deadline=None)
def test_the_window_agrees_with_a_voxelwise_reference(stored: np.ndarray, bounds: tuple[float, float]) -> None:
    before = stored.copy()
    windowed = window(stored, "ct", bounds)
    assert windowed.dtype == np.float32
    low, high = bounds
    slow = [min(1.0, max(0.0, (float(hu) - low) / (high - low))) for hu in stored.ravel()]
    np.testing.assert_allclose(windowed.ravel(), slow, atol=1e-4)
    back = unwindow(windowed, "ct", bounds)
    np.testing.assert_allclose(back, np.clip(stored, low, high), atol=0.1)
    np.testing.assert_array_equal(stored, before)


def test_mr_is_not_windowed() -> None:
    stored = np.linspace(-10, 10, 60).astype(np.float16).reshape(3, 4, 5)
    np.testing.assert_array_equal(window(stored, "mr", WINDOW), stored.astype(np.float32))
    np.testing.assert_array_equal(unwindow(stored, "mr", WINDOW), stored.astype(np.float32))
    assert window(stored, "mr", WINDOW).dtype == unwindow(stored, "mr", WINDOW).dtype == np.float32


def test_a_ct_is_cropped_to_the_body_without_table_or_specks() -> None:
    body = np.zeros((30, 32, 20), dtype=bool)
    body[8:20, 10:22, 4:15] = True
    body[24:27, 12:20, 5:14] = True  # an arm
    scan = np.where(body, 40, -1000)
    scan[8:18, 2, 4:14] = 300  # a table
    scan[1, 30, 17] = 900
    assert foreground_box("ct", scan[None].astype(np.float32)) == box_of(body, 2)


def test_lungs_count_as_body_and_an_empty_ct_is_not_cropped() -> None:
    scan = np.full((1, 20, 20, 20), -1000.0)
    assert foreground_box("ct", scan) == (slice(0, 20),) * 3
    scan[0, 4:16, 4:16, 4:16] = 30
    scan[0, 6:14, 6:14, 6:14] = -850
    assert foreground_box("ct", scan, margin=0) == (slice(4, 16),) * 3


@pytest.mark.parametrize("background", [0.0, -1.3])
def test_an_mr_with_constant_background_is_cropped(background: float) -> None:
    array, ball = brain(background)
    other = np.full_like(array, background)
    other[2, 3, 4] = 500  # only in the second channel
    assert foreground_box("mr", array[None]) == box_of(ball, 2)
    assert foreground_box("mr", np.stack([array, other])) == box_of(ball | (other != background), 2)


def test_an_mr_without_background_is_not_cropped() -> None:
    tissue = np.random.default_rng(0).integers(0, 255, (1, 12, 14, 10)).astype(np.float32)
    assert foreground_box("mr", tissue) == (slice(0, 12), slice(0, 14), slice(0, 10))


def test_a_ct_is_cropped_to_the_large_components_of_all_channels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        noise = ndimage.gaussian_filter(rng.normal(size=(2, 24, 20, 16)), (0, 2, 2, 2))
        image = np.where(noise > 0.13, 40.0, -1000.0).astype(np.float32)
        inside = np.zeros(image.shape[1:], bool)
        for channel in image:
            components, count = ndimage.label(channel > -500)
            sizes = np.bincount(components.ravel())[1:]
            inside |= np.isin(components, 1 + np.flatnonzero(sizes >= 0.1 * sizes.max())) if count else False
        expected = ndimage.find_objects(inside.astype(int))[0] if inside.any() else np.s_[:24, :20, :16]
        assert foreground_box("ct", image, margin=0) == expected


def test_statistics_of_a_subsample_are_close_to_those_of_all_voxels(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.zeros((70, 60, 50), np.float32)
    array[10:60, 10:50, 10:40] = np.random.default_rng(0).normal(300, 40, (50, 40, 30))
    whole, box = fit_intensity("mr", array), foreground_box("mr", array[None])
    monkeypatch.setattr("voxmim.images.intensity.thinned", lambda volume: thinned(volume, 20_000))
    fewer = fit_intensity("mr", array)
    assert fewer != whole
    assert (fewer.centre, fewer.scale) == pytest.approx((whole.centre, whole.scale), rel=0.05)
    assert foreground_box("mr", array[None]) == box == np.s_[8:62, 8:52, 8:42]
