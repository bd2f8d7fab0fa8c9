from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Tiny, TinyRuns
from voxmim import api
from voxmim.errors import RunError, ScanError, SourceError, StoreError, WeightsError
from voxmim.images.volume import Volume, read_volume, write_volume
from voxmim.store.format import Store
from voxmim.store.prepare import prepare, prepare_scan
from voxmim.tasks.metrics import convention
from voxmim.tasks.segmentation.evaluate import evaluate, result_tables
from voxmim.tasks.segmentation.prior import PositionPrior

Fake = Callable[..., None]
Maker = Callable[..., Path]
SCORES = {"dice", "hd95_mm", "nsd", "ci95"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with an empty weights file, for the fake segmentor."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "segmentor.safetensors").write_bytes(b"")
    return tmp_path / "run"


def test_a_perfect_segmentor_scores_perfectly(tiny: Tiny, run: Path, fake_segmentor: Fake) -> None:
    fake_segmentor()
    result = evaluate(run, tiny.store)
    assert [case["case"] for case in result["cases"]] == ["case_6", "case_7"]
    for scores in (result["mean"], *result["labels"].values()):
        assert (scores["dice"], scores["hd95_mm"], scores["nsd"], scores["ci95"]) == (1.0, 0.0, 1.0, [1.0, 1.0])


def test_a_segmentor_is_scored_in_the_scans_own_geometry(
    tmp_path: Path, run: Path, tiny_source: Maker, fake_segmentor: Fake
) -> None:
    """Flipped, tilted, anisotropic scans; one label is predicted perfectly, the other not at all."""
    tilt = np.array([[-0.96, 0, 0.28], [0, 1, 0], [-0.28, 0, -0.96]])
    affine = np.eye(4)
    affine[:3, :3] = tilt * (1.5, 1.0, 2.5)
    source = tiny_source(cases=4, affine=affine)
    fake_segmentor((1.5, 1.0, 2.5), {1: (0.65, 2.0), 2: (9.0, 9.1)})
    result = evaluate(run, source)
    bone, fat = result["labels"]["bone"], result["labels"]["fat"]
    assert (bone["dice"], bone["hd95_mm"], bone["nsd"]) == (1.0, 0.0, 1.0)
    assert (fat["dice"], fat["nsd"]) == (0.0, 0.0)
    assert fat["hd95_mm"] == pytest.approx(np.linalg.norm(np.multiply((20, 18, 16), (1.5, 1.0, 2.5))), rel=1e-4)
    assert result["mean"]["dice"] == 0.5


def test_small_components_are_scored_only_on_request(run: Path, tiny_source: Maker, fake_segmentor: Fake) -> None:
    source = tiny_source(cases=2, splits={"test": ["case_0", "case_1"]})
    for file in (source / "imagesTr").iterdir():
        volume = read_volume(file)
        volume.array[0, 10, 14, 8] = 200  # as bright as bone, but elsewhere in the body
        write_volume(file, volume)
    fake_segmentor(cleaned=["bone"])
    cleaned, whole = evaluate(run, source), evaluate(run, source, all_components=True)
    assert cleaned["labels"]["bone"]["dice"] == 1.0
    assert whole["labels"]["bone"]["dice"] < 1.0
    notes = [result_tables(result)[0].note for result in (cleaned, whole)]
    assert ["Small components were removed from the predictions of bone." in note for note in notes] == [True, False]


def with_other_label_values(source: Path, numbers: dict[int, int], labels: dict[str, int]) -> Path:
    """The source with other label values."""
    for file in (source / "labelsTr").iterdir():
        volume = read_volume(file)
        array = np.zeros_like(volume.array)
        for old, new in numbers.items():
            array[volume.array == old] = new
        write_volume(file, Volume(array, volume.affine))
    dataset = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps(dataset | {"labels": {"background": 0, **labels}}))
    return source


def test_labels_with_other_values_are_matched_by_name(run: Path, tiny_source: Maker, fake_segmentor: Fake) -> None:
    source = with_other_label_values(
        tiny_source(cases=2, splits={"test": ["case_0", "case_1"]}), {1: 7, 2: 1}, {"bone": 7, "Fat": 1}
    )
    fake_segmentor()
    result = evaluate(run, source)
    assert [scores["dice"] for scores in result["labels"].values()] == [1.0, 1.0]


def test_a_label_that_was_not_learned_is_marked_in_the_table(
    run: Path, tiny_source: Maker, fake_segmentor: Fake
) -> None:
    labels = {"bone": 1, "muscle": 2}
    source = with_other_label_values(tiny_source(cases=2, splits={"test": ["case_0", "case_1"]}), {1: 1, 2: 2}, labels)
    fake_segmentor()
    result = evaluate(run, source)
    assert (list(result["labels"]), result["not_learned"], result["not_scored"]) == (["bone"], ["muscle"], ["fat"])
    (table,) = result_tables(result)
    assert table.rows[-1][:2] == ["muscle (never learned)", "–"]
    assert "Not scored, since the data do not label them: fat." in table.note


@pytest.mark.parametrize(("fat", "below"), [(0.65, "fat"), (0.5, "mean, fat"), (0.75, "")])
def test_the_table_marks_labels_below_the_prior(fat: float, below: str) -> None:
    def figures(bone: float, fat: float) -> dict[str, Any]:
        means = {"mean": (bone + fat) / 2, "bone": bone, "fat": fat}
        mean, *labels = ({"dice": dice, "hd95_mm": None, "nsd": None, "ci95": None} for dice in means.values())
        return {"mean": mean, "labels": dict(zip(("bone", "fat"), labels, strict=True))}

    result = {"split": "test", "tolerance_mm": 2.0, "convention": "", "cases": [{}], **figures(0.6, fat)}
    (table,) = result_tables({**result, "prior": figures(0.5, 0.7)})
    sentence = f"Dice below the prior's: {below}; train longer, or check the labels."
    assert table.note.startswith(sentence) if below else "below" not in table.note


def test_labels_that_the_segmentor_does_not_know_are_refused(
    run: Path, tiny_source: Maker, fake_segmentor: Fake
) -> None:
    source = with_other_label_values(
        tiny_source(cases=2, splits={"test": ["case_0"]}), {1: 1, 2: 2}, {"liver": 1, "spleen": 2}
    )
    fake_segmentor()
    with pytest.raises(StoreError, match=r"none of its labels \(liver, spleen\) is one that the segmentor knows"):
        evaluate(run, source)


@pytest.mark.parametrize("exchanged", [False, True])
def test_channels_in_another_order_are_matched_by_name(
    run: Path, tiny_source: Maker, fake_segmentor: Fake, exchanged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second channel is noise, and the segmentor uses the first one."""
    source = tiny_source(cases=2, splits={"test": ["case_0", "case_1"]})
    for file in (source / "imagesTr").iterdir():
        volume = read_volume(file)
        noise = np.random.default_rng(0).normal(0, 300, volume.array.shape).astype(np.int16)
        channels = [noise, volume.array] if exchanged else [volume.array, noise]
        write_volume(file, Volume(np.concatenate(channels), volume.affine))
    dataset = json.loads((source / "dataset.json").read_text())
    names = ["noise", "ct"] if exchanged else ["CT", "noise"]
    (source / "dataset.json").write_text(json.dumps(dataset | {"channel_names": dict(enumerate(names))}))
    fake_segmentor(channels=["CT", "noise"])
    result = evaluate(run, source)
    assert result["mean"]["dice"] == 1.0


def test_other_channels_are_refused(run: Path, tiny_source: Maker, fake_segmentor: Fake) -> None:
    fake_segmentor(channels=["T1", "T2"])
    with pytest.raises(SourceError, match="its channels are CT, but the network needs T1, T2"):
        evaluate(run, tiny_source(cases=2, splits={"test": ["case_0", "case_1"]}))


def test_the_prior_is_scored_too(tiny_runs: TinyRuns) -> None:
    result = evaluate(tiny_runs.finetune, tiny_runs.store)
    prior = PositionPrior.load(tiny_runs.finetune / "prior.npz")
    store = Store(tiny_runs.store)
    for case in result["prior"]["cases"]:
        entry = store.cases[case["case"]]
        scan = prepare_scan(entry.image, store.preparation)
        low = np.rint(scan.grid.affine[:3, 3]).astype(
            int
        )  # the source is in RAS at 1 mm, so indices equal world coordinates
        predicted = np.zeros(scan.original.shape, dtype=np.uint8)
        predicted[tuple(slice(a, a + n) for a, n in zip(low, entry.shape, strict=True))] = prior.predict(entry.shape)
        assert entry.label is not None
        reference = read_volume(entry.label).array[0]
        for value, name in store.labels.items():
            a, b = predicted == value, reference == value
            assert case["dice"][name] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert result["prior"]["mean"]["dice"] > 0.2


def test_without_a_prior_none_is_reported(tiny: Tiny, run: Path, fake_segmentor: Fake) -> None:
    fake_segmentor()
    assert "prior" not in evaluate(run, tiny.store)


def test_a_folder_gives_the_same_metrics_as_its_store(tiny_runs: TinyRuns) -> None:
    of_store = evaluate(tiny_runs.finetune, tiny_runs.store)
    of_folder = evaluate(tiny_runs.finetune, tiny_runs.source)
    assert of_folder.pop("data") != of_store.pop("data")
    assert of_folder == of_store


@pytest.mark.parametrize(("split", "cases"), [("train", [0, 1, 2, 3]), ("val", [4, 5]), ("test", [6, 7])])
def test_the_requested_split_is_scored(
    tiny: Tiny, run: Path, fake_segmentor: Fake, split: str, cases: list[int]
) -> None:
    fake_segmentor()
    progress: list[tuple[int, int]] = []
    result = evaluate(run, tiny.store, split, on_case=lambda done, of: progress.append((done, of)))
    assert [case["case"] for case in result["cases"]] == [f"case_{i}" for i in cases]
    assert progress == [(done, len(cases)) for done in range(len(cases) + 1)]


# Written files


def test_the_json_has_the_documented_structure(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    run = shutil.copytree(tiny_runs.finetune, tmp_path / "run")
    result = api.evaluate(run, tiny_runs.store, "val", 3.0, json_file=tmp_path / "deep" / "result.json")
    written = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert written == result == json.loads((run / "evaluation-val.json").read_text())
    assert set(written) == {
        "run", "data", "split", "tolerance_mm", "convention", "left_out", "not_learned", "not_scored", "mean",
        "remove_small_components",
        "ignored", "partly_annotated",
        "labels", "cases", "prior",
    }  # fmt: skip
    assert (written["split"], written["tolerance_mm"], written["convention"]) == ("val", 3.0, convention())
    assert (written["run"], written["data"]) == (str(run), str(tiny_runs.store))
    for part in (written, written["prior"]):
        assert set(part["mean"]) == SCORES
        assert {name: set(scores) for name, scores in part["labels"].items()} == {
            "bone": SCORES | {"cases"},
            "fat": SCORES | {"cases"},
        }
        for case in part["cases"]:
            assert set(case) == {"case", "dice", "hd95_mm", "nsd", "mean_dice"}
            assert set(case["dice"]) == set(case["hd95_mm"]) == set(case["nsd"]) == {"bone", "fat"}
        assert part["mean"]["dice"] == pytest.approx(np.mean([case["mean_dice"] for case in part["cases"]]))
        assert part["mean"]["ci95"][0] <= part["mean"]["dice"] <= part["mean"]["ci95"][1]
    assert set(written["prior"]) == {"mean", "labels", "cases"}
    assert "split &#39;val&#39;" in (run / "report.html").read_text()


def test_the_csv_has_a_row_per_case_and_label(
    tiny_source: Maker, tmp_path: Path, run: Path, fake_segmentor: Fake, write_scan: Maker
) -> None:
    source = tiny_source(cases=3, splits={"test": ["case_0", "case_1", "case_2"]})
    label = source / "labelsTr" / "case_1.nii.gz"
    write_scan(label, np.where(read_volume(label).array == 2, 0, read_volume(label).array))
    fake_segmentor(bands={1: (0.65, 2.0), 2: (9.0, 9.1)})
    api.evaluate(run, source, csv_file=tmp_path / "result.csv")
    with (tmp_path / "result.csv").open(newline="") as lines:
        rows = list(csv.reader(lines))
    assert rows[0] == ["case", "label", "dice", "hd95_mm", "nsd"]
    assert [row[:2] for row in rows[1:]] == [[f"case_{i}", label] for i in range(3) for label in ("bone", "fat")]
    assert [float(row[2]) for row in rows[1::2]] == [1.0, 1.0, 1.0]
    assert rows[4][2:] == ["", "", ""]  # fat is in neither label map of case_1 and not counted
    assert rows[2][2] == "0.0"


@pytest.mark.parametrize("seed", [3, 4])
def test_a_drawn_split_is_that_of_the_training(
    tiny_source: Maker, tmp_path: Path, run: Path, fake_segmentor: Fake, seed: int
) -> None:
    source = tiny_source(cases=8)
    store = prepare(source, tmp_path / "store", workers=1, quiet=True, seed=seed).store
    trained_on = {case.name for case in Store(store).in_split("train", "val")}
    fake_segmentor(seed=Store(store).seed)
    scored = {case["case"] for case in evaluate(run, source)["cases"]}
    assert scored == {case.name for case in Store(store).in_split("test")}
    assert not scored & trained_on
    for data in (source, store):
        assert len(evaluate(run, data, "all")["cases"]) == 8


# Refused input


def test_a_split_without_labelled_cases_is_refused(tmp_path: Path, run: Path, tiny_source: Maker,
                                                   fake_segmentor: Fake) -> None:  # fmt: skip
    source = tiny_source(cases=2, unlabelled=1, splits={"train": ["case_0", "case_1"], "test": ["case_2"]})
    store = prepare(source, tmp_path / "store", workers=1, quiet=True).store
    fake_segmentor()
    for data in (source, store):
        with pytest.raises(StoreError, match=f"{data.name}: it has no labelled case in the split 'test'"):
            evaluate(run, data)


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_a_missing_source_file_is_named(
    tmp_path: Path,
    run: Path,
    tiny_source: Maker,
    fake_segmentor: Fake,
    folder: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tiny_source(cases=2, splits={"test": ["case_0", "case_1"]})
    store = prepare(source, tmp_path / "store", workers=1, quiet=True).store
    (source / folder / "case_1.nii.gz").unlink()
    fake_segmentor()
    assert evaluate(run, store)["left_out"] == ["case_1"]
    assert f"left out: {source / folder / 'case_1.nii.gz'}: there is no such file" in capsys.readouterr().err
    (source / folder / "case_0.nii.gz").unlink()
    with pytest.raises(ScanError, match=rf"source/{folder}/case_0\.nii\.gz: there is no such file"):
        evaluate(run, store)


def test_a_reference_on_another_grid_is_refused(
    run: Path, tiny_source: Maker, fake_segmentor: Fake, write_scan: Maker
) -> None:
    source = tiny_source(cases=1, splits={"test": ["case_0"]})
    label = source / "labelsTr" / "case_0.nii.gz"
    moved = np.eye(4)
    moved[0, 3] = 1.0
    write_scan(label, read_volume(label).array, moved)
    fake_segmentor()
    with pytest.raises(ScanError, match=r"labelsTr/case_0\.nii\.gz: its affine puts a corner 1 voxels off"):
        evaluate(run, source)


def test_a_run_of_another_kind_is_refused(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="this run is a pretrain, but a finetune is needed"):
        api.evaluate(tiny_runs.pretrain, tiny_runs.store)
    with pytest.raises(WeightsError, match="there is no segmentor"):
        api.evaluate(tmp_path, tiny_runs.store)
