"""Any dataset.json is read or refused in one sentence."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voxmim.errors import SourceError
from voxmim.sources.dataset_json import describe

FILE = Path("somewhere/dataset.json")
WORDS = st.sampled_from(["0", "1", "²", "-1", "256", "T1", "background", "ignore", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 300) | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
KEYS = ("name", "channel_names", "labels", "regions", "licence")


@given(values=st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, VALUES) | {"channel_names": st.just({"0": "T1"})}))
@example(values={"labels": {"T1": float("inf")}})
def test_any_description_is_read_or_refused(values: dict[str, object]) -> None:
    for kind in ({}, {"file_ending": ".nii.gz"}):
        with contextlib.suppress(SourceError):  # no other exception
            description = describe(FILE, {**values, **kind})
            assert description.channels == ("T1",)
            assert all(type(value) is int and 0 < value < 256 for value in description.labels)
            assert all(set(values) <= description.labels.keys() for values in description.regions.values())


@pytest.mark.parametrize("value", [1.5, True, None, float("inf"), [1]])
def test_a_label_value_is_an_integer(value: object) -> None:
    with pytest.raises(SourceError, match="not numbered by whole numbers"):
        describe(FILE, {"channel_names": {"0": "T1"}, "labels": {"rim": value}})
    assert describe(FILE, {"channel_names": {"0": "T1"}, "labels": {"rim": "2"}}).labels == {2: "rim"}
