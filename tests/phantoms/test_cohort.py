from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from voxmim.errors import SourceError, VoxmimError
from voxmim.images.volume import Volume, read_volume
from voxmim.phantoms.cohort import KINDS, write_cohort
from voxmim.phantoms.trunk import LABELS, contrast_phase, draw_trunk

VALUE = {name: value for value, name in LABELS.items()}


def test_a_cohort_is_read_back_as_it_was_drawn(tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    write_cohort(tmp_path / "new" / "cohort", 5, seed=0, on_case=lambda done, total: progress.append((done, total)))
    out = tmp_path / "new" / "cohort"
    assert progress == [(i + 1, 5) for i in range(5)]
    assert sorted(p.name for p in out.iterdir()) == [
        "classes.csv", "dataset.json", "imagesTr", "labelsTr", "splits.json",
    ]  # fmt: skip
    assert [p.name for p in out.parent.iterdir()] == ["cohort"]
    dataset = json.loads((out / "dataset.json").read_text())
    assert dataset["channel_names"] == {"0": "CT"}
    assert dataset["labels"] == {"background": 0} | VALUE
    assert "regions" not in dataset
    splits = json.loads((out / "splits.json").read_text())
    assert set(splits) == {"train", "val", "test", "unlabelled"}
    assert splits["unlabelled"] == []
    assert all(splits[part] for part in ("train", "val", "test"))
    assert sorted(splits["train"] + splits["val"] + splits["test"]) == [f"phantom_{i:03d}" for i in range(5)]
    classes = [f"phantom_{index:03d},{contrast_phase(index)}" for index in range(5)]
    assert (out / "classes.csv").read_text().splitlines() == ["case,class", *classes]
    for index in range(5):
        for folder, drawn in zip(("imagesTr", "labelsTr"), draw_trunk(index), strict=True):
            read = read_volume(out / folder / f"phantom_{index:03d}{dataset['file_ending']}")
            assert read.array.dtype == drawn.array.dtype
            assert np.array_equal(read.array, drawn.array)
            assert np.allclose(read.affine, drawn.affine, atol=1e-3)


@pytest.mark.parametrize(("cases", "counts"), [(4, (2, 1, 1)), (20, (12, 3, 5)), (40, (24, 6, 10))])
def test_the_split_has_the_documented_fractions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: int, counts: tuple[int, int, int]
) -> None:
    tiny = Volume(np.zeros((1, 2, 2, 2), np.uint8), np.eye(4))
    monkeypatch.setitem(KINDS, "trunk", replace(KINDS["trunk"], draw=lambda _: (tiny, tiny), class_of=lambda *_: "x"))
    write_cohort(tmp_path / "cohort", cases, seed=3)
    splits = json.loads((tmp_path / "cohort" / "splits.json").read_text())
    assert tuple(len(splits[part]) for part in ("train", "val", "test")) == counts


def test_too_few_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VoxmimError, match="ask for 4 cases or more"):
        write_cohort(tmp_path / "cohort", 3, seed=0)
    assert not (tmp_path / "cohort").exists()


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VoxmimError, match="0 or more"):
        draw_trunk(-1)
    with pytest.raises(VoxmimError, match="seed -1: "):
        write_cohort(tmp_path / "cohort", 4, seed=-1)
    assert not (tmp_path / "cohort").exists()


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VoxmimError, match=r"'heads' is no kind of phantom \(trunk, head\); did you mean 'head'\?"):
        write_cohort(tmp_path / "cohort", 4, seed=0, kind="heads")
    assert not (tmp_path / "cohort").exists()


def test_an_empty_folder_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Volume(np.zeros((1, 2, 2, 2), np.uint8), np.eye(4))
    monkeypatch.setitem(KINDS, "trunk", replace(KINDS["trunk"], draw=lambda _: (tiny, tiny), class_of=lambda *_: "x"))
    (tmp_path / "cohort").mkdir()
    monkeypatch.chdir(tmp_path / "cohort")
    write_cohort(Path("."), 4, seed=0)
    assert (tmp_path / "cohort" / "splits.json").is_file()


def test_an_occupied_folder_is_refused_and_not_changed(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SourceError, match="not an empty folder"):
        write_cohort(tmp_path, 4, seed=0)
    with pytest.raises(SourceError, match="not an empty folder"):
        write_cohort(tmp_path / "mine.txt", 4, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_write_leaves_no_files(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "cohort", 4, seed=0, on_case=stop)
    assert list(tmp_path.iterdir()) == []
