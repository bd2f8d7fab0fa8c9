from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voxmim.errors import SourceError
from voxmim.tasks.classification.labels import counts_in_words, draw_splits, match, read_classes, stratified_order

TWO = {"a": "sick", "b": "healthy", "c": "sick"}
TABLES = st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.sampled_from(["x", "y", "z"]), min_size=1)


def write_table(path: Path, text: str, encoding: str = "utf-8") -> Path:
    (path / "classes.csv").write_text(text, encoding=encoding)
    return path / "classes.csv"


def test_a_table_is_read_by_column_names(tmp_path: Path) -> None:
    text = "age,class, case\n51,sick,a\n52, healthy ,b\n53,sick,c\n54,,d\n55,  ,e\n"
    assert read_classes(write_table(tmp_path, text)) == TWO  # d and e have no class
    assert (
        read_classes(write_table(tmp_path, text.replace("\n", "\r\n"), "utf-8-sig")) == TWO
    )  # as written by spreadsheets
    assert read_classes(write_table(tmp_path, 'case,class\n"a, 1",1\nb,0\n')) == {"a, 1": "1", "b": "0"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"its first line must name the columns case and class, .* but it is ''"),
        ("a,sick\nb,healthy\n", r"its first line must name .* but it is 'a,sick'"),
        ("case;class\na;sick\n", r".* parted by commas, but it is 'case;class'"),
        ("case,class,class\na,1,2\n", ".* must name the columns"),
        ("case,class\na,sick\nb,healthy\na,sick\n", r"case 'a' is listed twice; leave it in once\."),
        ("case,class\na,sick\na,\nb,healthy\n", "case 'a' is listed twice"),
        ("case,class\na,sick\n,healthy\n", r"line 3 names no case; fill it in or remove the line\."),
        ("case,class\na,sick\nb,sick\n", r"at least two classes are needed, but it knows sick; add cases of another\."),
        ("case,class\na\nb\n", "at least two classes are needed, but it knows none"),
    ],
)
def test_an_invalid_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SourceError, match=rf"classes\.csv: {message}"):
        read_classes(write_table(tmp_path, text))


def test_a_file_that_is_not_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.csv: there is no such file; check the path\."):
        read_classes(tmp_path / "gone.csv")
    (tmp_path / "x.csv").write_bytes(b"case,class\na,\xff\xfe\x00")
    with pytest.raises(SourceError, match=r"x\.csv: this is no readable text"):
        read_classes(tmp_path / "x.csv")


def test_cases_get_their_classes_and_the_others_are_reported() -> None:
    splits = {"a": "train", "b": "test", "d": "train", "e": "unlabelled"}
    listed, notes = match(TWO, splits, Path("t.csv"), Path("store"))
    assert listed == {"train": {"a": "sick"}, "test": {"b": "healthy"}}
    assert notes == [
        "1 case (c) listed in t.csv but not in store: left out.",
        "2 cases (d, e) in store without a class in t.csv: left out.",
    ]
    assert match(TWO, dict.fromkeys(TWO, "train"), Path("t.csv"), Path("store")) == ({"train": TWO}, [])


def test_a_table_without_matching_cases_is_refused() -> None:
    with pytest.raises(SourceError, match=r"t\.csv: none of its cases is in store, not 'case1'; did you mean 'case_1'"):
        match({"case1": "x", "case2": "y"}, {"case_1": "train"}, Path("t.csv"), Path("store"))
    with pytest.raises(SourceError, match=r"not 'a'; name them as there, such as 'patient'\."):
        match(TWO, {"patient": "train"}, Path("t.csv"), Path("store"))


@given(TABLES, st.integers(0, 9))
def test_a_drawn_split_has_each_class_in_each_split(classes: dict[str, str], seed: int) -> None:
    drawn = draw_splits(classes, seed)
    assert list(drawn) == list(classes)
    assert drawn == draw_splits(dict(reversed(classes.items())), seed) | drawn  # the order of the table has no effect
    for name, count in Counter(classes.values()).items():
        parts = Counter(drawn[case] for case in classes if classes[case] == name)
        if count >= 3:
            assert parts["test"] == max(1, round(0.25 * count))
            assert parts["val"] == max(1, round(0.15 * count))
        assert parts["train"] >= 1
        assert bool(parts["test"]) == (count >= 2)


def test_a_split_is_determined_by_its_seed() -> None:
    classes = {str(i): "xy"[i % 2] for i in range(40)}
    assert draw_splits(classes, 1) == draw_splits(classes, 1) != draw_splits(classes, 2)
    assert Counter(draw_splits(classes, 1).values()) == {"train": 24, "test": 10, "val": 6}


@given(TABLES, st.integers(0, 9))
def test_every_prefix_of_the_order_is_stratified(classes: dict[str, str], seed: int) -> None:
    order = stratified_order(classes, seed)
    assert sorted(order) == sorted(classes)
    counts = Counter(classes.values())
    assert {classes[case] for case in order[: len(counts)]} == set(counts)
    for length in range(len(counts), len(order) + 1):
        part = Counter(classes[case] for case in order[:length])
        assert all(abs(part[name] - length * counts[name] / len(order)) <= len(counts) for name in counts)


def test_counts_are_written_in_words() -> None:
    assert counts_in_words(TWO.values()) == "1 healthy, 2 sick"
