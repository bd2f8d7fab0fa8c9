"""Label maps among the scans are recognised, and no scan is mistaken for one."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import tiny_case
from voxmim.doctor.reading import looks_like_labels
from voxmim.phantoms.trunk import draw_trunk


def test_label_maps_of_any_type_are_recognised() -> None:
    _, label = tiny_case(0, (20, 18, 16))
    assert looks_like_labels(label)
    assert looks_like_labels(label.astype(np.float64) * 0.99999997)  # as in some brain masks
    assert looks_like_labels(draw_trunk(3)[1].array[0])
    assert looks_like_labels(np.tile(label, (6, 8, 8)))  # only a part of this is read


@pytest.mark.parametrize("change", [lambda a: a + 0.4, lambda a: a - 1, lambda a: a * 200, lambda a: a * 0])
def test_an_image_with_other_values_is_not_a_label_map(change: object) -> None:
    _, label = tiny_case(0, (20, 18, 16))
    assert not looks_like_labels(change(label.astype(np.float32)))  # type: ignore[operator]


def test_scans_are_not_label_maps_even_in_eight_bits() -> None:
    scan, _ = tiny_case(0, (20, 18, 16))
    assert not looks_like_labels(scan)
    assert not looks_like_labels(np.clip(scan // 8 + 128, 0, 255).astype(np.uint8))
    assert not looks_like_labels(draw_trunk(3)[0].array[0])
    smooth = np.add.outer(np.add.outer(np.arange(60), np.arange(50)), np.arange(40)) // 3
    assert not looks_like_labels(smooth.astype(np.uint8))
