"""Facts agree with plain references and do not depend on the file's axes, type or format."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from scan_files import AFFINE, reorient, scan
from voxmim.doctor.facts import PERCENTILES, Facts, measure
from voxmim.images.volume import Volume

IMAGE, LABEL = scan(0)


def facts(axes: str = "RAS", dtype: type = np.int16) -> Facts:
    (image, affine), (label, _) = reorient(IMAGE, AFFINE, axes), reorient(LABEL, AFFINE, axes)
    return measure(Volume(image[None].astype(dtype), affine), label)


def test_facts_agree_with_a_plain_reference() -> None:
    measured = facts()
    assert (measured.shape, measured.spacing, measured.orientation, measured.whole) == (
        (24, 22, 20),
        (1.0, 1.2, 1.5),
        "RAS",
        True,
    )
    np.testing.assert_allclose(measured.percentiles, [np.percentile(IMAGE, PERCENTILES)], rtol=1e-5)
    for value in (1, 2):
        inside = np.argwhere(value == LABEL)
        assert measured.labels[value].volume == pytest.approx(len(inside) * 1.0 * 1.2 * 1.5)
        np.testing.assert_allclose(measured.labels[value].centre, (inside.mean(axis=0) + 0.5) / LABEL.shape, atol=1e-4)
    low, high = np.percentile(IMAGE, (0.5, 99.5))
    shown = np.clip((IMAGE - low) / (high - low), 0, 1)
    assert measured.coarse()[1, 2, 3] == pytest.approx(255 * shown[4:8, 7:11, 10:14].mean(), abs=1)


@pytest.mark.parametrize("axes", ["LPS", "PIR", "SAL", "IRA"])
def test_facts_do_not_depend_on_the_order_of_axes(axes: str) -> None:
    measured = facts(axes, np.float64)
    assert measured.orientation == axes
    assert asdict(measured) | {"orientation": "RAS"} == asdict(facts())


def test_a_change_of_one_voxel_changes_the_content_hash() -> None:
    other = IMAGE.copy()
    other[3, 4, 5] += 1
    assert measure(Volume(other[None], AFFINE)).content != facts().content
    assert measure(Volume(np.stack([IMAGE, other]), AFFINE)).content != facts().content


def test_minus_zero_equals_zero_and_fractions_are_not_integers() -> None:
    array = np.zeros((1, 8, 8, 8), np.float32)
    array[0, 0] = 0.5
    measured = measure(Volume(array, AFFINE))
    assert not measured.whole
    assert measured.content == measure(Volume(np.where(array == 0, np.float32(-0.0), array), AFFINE)).content


def test_a_thin_scan_has_an_overview() -> None:
    thin = np.arange(2 * 3 * 40, dtype=np.int16).reshape(1, 2, 3, 40)
    view = measure(Volume(thin, np.eye(4))).coarse()
    assert view.shape == (6, 6, 6)
    assert np.all(np.diff(view, axis=2) >= 0)


def test_facts_survive_a_round_trip_through_json() -> None:
    assert Facts.from_dict(json.loads(json.dumps(asdict(facts())))) == facts()
    assert len(json.dumps(asdict(facts()))) < 800


def test_orientations_are_named_as_in_nibabel() -> None:
    for affine, name in (
        (np.diag([-1.0, -1, 1, 1]), "LPS"),
        (np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]), "PIR"),
    ):
        assert measure(Volume(np.arange(1000).reshape(1, 10, 10, 10), affine)).orientation == name
