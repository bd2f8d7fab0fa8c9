from __future__ import annotations

import numpy as np
import pytest

from voxmim.doctor.facts import Facts, measure
from voxmim.doctor.modality import guess_intensity, rule_misfit
from voxmim.images.volume import Volume


def facts(low: float, high: float, dtype: type = np.int16, channels: int = 1) -> Facts:
    array = np.random.default_rng(0).uniform(low, high, (channels, 10, 10, 10)).astype(dtype)
    return measure(Volume(array, np.eye(4)))


CT, MR, SCORED = facts(-1000, 1000), facts(0, 900), facts(-600.5, 1, np.float32)


def test_ct_and_mr_are_distinguished() -> None:
    assert guess_intensity([CT]) == guess_intensity([CT, CT, MR]) == "ct"
    assert guess_intensity([CT, MR]) == guess_intensity([MR]) == guess_intensity([SCORED]) == "mr"
    assert guess_intensity([]) == "mr"
    assert guess_intensity([CT] * 3 + [MR] * 100) == "ct"  # the first few decide


@pytest.mark.parametrize("name", ["CT", "ct", "contrast CT", "venous_CT"])
def test_a_channel_named_ct_decides_the_intensity_rule(name: str) -> None:
    assert guess_intensity([MR], [name]) == "ct"
    assert guess_intensity([MR], ["reconstruction", "T2 FLAIR"]) == "mr"


@pytest.mark.parametrize(
    ("scan", "kind", "reason"),
    [
        (CT, "ct", None),
        (facts(-120, 300), "ct", None),  # a crop within the body
        (MR, "ct", "its values from 0 to"),
        (facts(0, 4000), "ct", "are no Hounsfield units"),  # or CT without its offset of -1024
        (facts(-3, 3, np.float32), "ct", "are no Hounsfield units"),
        (MR, "mr", None),
        (SCORED, "mr", None),
        (CT, "mr", "its whole values down to -"),
        (facts(0, 900, channels=3), "mr", None),
    ],
)
def test_a_scan_of_another_modality_is_reported(scan: Facts, kind: str, reason: str | None) -> None:
    message = rule_misfit(scan, kind)
    assert message is None if reason is None else message is not None and reason in message
