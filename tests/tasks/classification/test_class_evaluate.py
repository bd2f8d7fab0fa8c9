from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from conftest import Sorted, TinyRuns
from voxmim import api
from voxmim.cli import main
from voxmim.errors import RunError, SourceError, StoreError, WeightsError
from voxmim.tasks.classification.metrics import summarise
from voxmim.tasks.classification.task import Classification


@pytest.fixture
def run(tiny_sorted: Sorted, tmp_path: Path) -> Path:
    """A writable copy of the shared run."""
    return shutil.copytree(tiny_sorted.run, tmp_path / "run")


def test_metrics_agree_with_the_scores_of_the_cases(tiny_sorted: Sorted, run: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    result = api.evaluate(
        run, tiny_sorted.store, json_file=tmp_path / "a.json", csv_file=tmp_path / "a.csv",
        on_case=lambda *at: progress.append(at),
    )  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [row["case"] for row in rows] == [f"scan_{number}" for number in range(24, 30)]
    for row, case in zip(rows, result["cases"], strict=True):
        assert row["class"] == ("dense" if int(row["case"].split("_")[1]) % 2 else "light") == case["class"]
        probabilities = {name: float(row[f"probability {name}"]) for name in ("dense", "light")}
        assert probabilities == pytest.approx(case["probabilities"], abs=1e-6)
        assert sum(probabilities.values()) == pytest.approx(1, abs=2e-6)
        assert row["predicted"] == max(probabilities, key=lambda name: probabilities[name])
    again = summarise(
        ["dense", "light"],
        {case["case"]: case["class"] for case in result["cases"]},
        {case["case"]: list(case["probabilities"].values()) for case in result["cases"]},
    )
    assert {key: result[key] for key in again} == again
    assert json.loads((tmp_path / "a.json").read_text()) == result
    assert json.loads((run / "evaluation-test.json").read_text()) == result
    assert progress == [(done, 6) for done in range(7)]


def test_a_folder_of_scans_and_its_store_give_the_same_result(tiny_sorted: Sorted, run: Path) -> None:
    from_source, from_store = (api.evaluate(run, data, "val") for data in (tiny_sorted.source, tiny_sorted.store))
    assert from_source["cases"] == from_store["cases"]
    assert len(api.evaluate(run, tiny_sorted.store, "all")["cases"]) == 30


def test_another_table_replaces_that_of_the_run(tiny_sorted: Sorted, run: Path, tmp_path: Path) -> None:
    table = tmp_path / "new.csv"
    table.write_text("case,class\nscan_1,light\nscan_2,dense\nscan_26,dense\nscan_x,light\n")
    result = api.evaluate(run, tiny_sorted.store, "all", classes=table)
    assert {case["case"]: case["class"] for case in result["cases"]} == {
        "scan_1": "light", "scan_2": "dense", "scan_26": "dense",
    }  # fmt: skip
    assert [line.split(" listed")[0].split(" in ")[0] for line in result["notes"]] == [
        "1 case (scan_x)", "27 cases (scan_0, scan_10, scan_11, ...)",
    ]  # fmt: skip
    weights = run / "classifier.safetensors"
    assert api.evaluate(weights, tiny_sorted.store, "all", classes=table)["cases"] == result["cases"]
    assert f"--classes {table}" in (run / "report.html").read_text()


def test_data_that_cannot_be_scored_are_refused(tiny_sorted: Sorted, run: Path, tmp_path: Path) -> None:
    table = tmp_path / "new.csv"
    table.write_text("case,class\nscan_1,light\nscan_2,odd\n")
    with pytest.raises(SourceError, match=r"class 'odd' is none that the classifier knows \(dense, light\)"):
        api.evaluate(run, tiny_sorted.store, "all", classes=table)
    with pytest.raises(StoreError, match=r"no case with a class in the split 'test'; name another with --split"):
        api.evaluate(run, tiny_sorted.store, "test", classes=table)
    with pytest.raises(SourceError, match=r"do not know the class of scans; give a CSV file with --classes"):
        api.evaluate(run / "classifier.safetensors", tiny_sorted.store)
    (tmp_path / "few").mkdir()
    shutil.copy(tiny_sorted.source / "imagesTr" / "scan_1.nii.gz", tmp_path / "few")
    with pytest.raises(StoreError, match=r"few: scan_24, which the run lists, is not there"):
        api.evaluate(run, tmp_path / "few")
    (run / "classifier.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"there is no classifier\.safetensors here; give the run folder of a fine"):
        api.evaluate(run, tiny_sorted.store)


def test_tables_have_rows_for_all_metrics() -> None:
    given = {"x": [0.2, 0.8], "y": [0.9, 0.1]}
    about = {"split": "val", "convention": "As documented."}
    scores, confusion = Classification.tables(about | summarise(["a", "b"], {"x": "b", "y": "a"}, given))
    rows = scores.rows
    assert confusion.rows == [["a", "1", "0"], ["b", "0", "1"]]
    assert rows == [
        ["AUROC", "1.000", "1.000 to 1.000", "0.500"],
        ["balanced accuracy", "1.000", "1.000 to 1.000", "0.500"],
        ["sensitivity of a (1 case)", "1.000", "–", "–"],
        ["sensitivity of b (1 case)", "1.000", "–", "–"],
    ]
    rows = Classification.tables(about | summarise(["a", "b"], {"x": "b"}, {"x": given["x"]}))[0].rows
    assert rows[0] == ["AUROC", "–", "–", "0.500"]
    assert rows[2] == ["sensitivity of a (0 cases)", "–", "–", "–"]


def test_the_commands_train_evaluate_and_predict(
    tiny_sorted: Sorted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_command(*arguments: object) -> str:
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        assert exit_info.value.code == 0
        return " ".join(capsys.readouterr().out.split())

    out, scans = tmp_path / "run", tiny_sorted.source / "imagesTr"
    options: list[object] = ["--task", "classification", "--classes", tiny_sorted.classes]
    done = run_command("finetune", tiny_sorted.store, out, *options, "--recipe", tiny_sorted.recipe, "--steps", 2)
    assert f"the classifier; its report is report.html in the same folder: {out}" in done
    result = run_command("evaluate", out, tiny_sorted.store, "--split", "val", "--json", tmp_path / "a.json")
    figures = json.loads((tmp_path / "a.json").read_text())
    assert "Results on 6 cases of the split 'val'" in result
    for text in (f"{figures['auroc']['value']:.3f}", "balanced accuracy", "sensitivity of"):
        assert text in result
    assert figures["convention"] in result
    assert f"done: the predictions: {tmp_path / 'p' / 'predictions.csv'}" in run_command(
        "predict", out, scans / "scan_3.nii.gz", "--out", tmp_path / "p"
    )


def test_classes_for_a_segmentation_are_refused(tiny_runs: TinyRuns, tiny_sorted: Sorted) -> None:
    with pytest.raises(RunError, match="--classes is not for a segmentation; leave it out"):
        api.evaluate(tiny_runs.finetune, tiny_runs.store, classes=tiny_sorted.classes)
