"""Regression of a number per scan: training, validation, evaluation and prediction."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score

from conftest import Sorted
from voxmim import api
from voxmim.errors import RunError, SourceError
from voxmim.store.format import Store
from voxmim.tasks.regression.metrics import summarise
from voxmim.tasks.regression.task import Regression, read_values
from voxmim.training.run import Run
from voxmim.weights.load import load_regressor

RunVoxmim = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def values(tiny_sorted: Sorted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The value of dense scans is about 60, of light ones about 20."""
    rows = [line.split(",") for line in tiny_sorted.classes.read_text().splitlines()[1:]]
    table = tmp_path_factory.mktemp("values") / "values.csv"
    numbers = [f"{name},{(60 if kind == 'dense' else 20) + place % 5}" for place, (name, kind) in enumerate(rows)]
    table.write_text("\n".join(["case,value", *numbers]))
    return table


@pytest.fixture(scope="module")
def run(tiny_sorted: Sorted, values: Path) -> Path:
    """A regression trained from the encoder of the classifier, which distinguishes the two kinds."""
    settings = {"finetune.steps": 30, "finetune.validate_every": 15, "finetune.lr": 3e-3}
    options: dict[str, Any] = {"task": "regression", "values": values, "init": tiny_sorted.run, "settings": settings}
    return api.finetune(tiny_sorted.store, values.parent / "run", **options)


def test_numbers_are_learned(run: Path, tiny_sorted: Sorted, values: Path) -> None:
    result = api.evaluate(run, tiny_sorted.store, csv_file=values.parent / "scores.csv")
    assert result["mae"]["value"] < 0.7 * result["mae"]["chance"]
    assert result["r2"]["value"] > 0.3 > result["r2"]["chance"]
    truth, predicted = ([case[key] for case in result["cases"]] for key in ("value", "predicted"))
    assert result["mae"]["value"] == pytest.approx(mean_absolute_error(truth, predicted))
    assert result["r2"]["value"] == pytest.approx(r2_score(truth, predicted))
    low, high = result["mae"]["ci95"]
    assert low <= result["mae"]["value"] <= high
    (table,) = Regression.tables(result)
    assert [row[0] for row in table.rows] == ["MAE", "R²"]
    assert "mean of the training cases" in table.note
    assert json.loads((run / "evaluation-test.json").read_text()) == result
    assert (values.parent / "scores.csv").read_text().startswith("case,value,predicted\nscan_24,")


def test_a_run_reports_its_metrics(run: Path, values: Path) -> None:
    about = Run.open(run).about
    assert (about["task"], about["values"]) == ("regression", str(values.resolve()))
    network, metadata = load_regressor(run)
    trained = [about["listed"]["train"][case] for case in about["cases"]]
    assert metadata["guess"] == pytest.approx(np.mean(trained))
    assert float(network.std) == pytest.approx(np.std(trained))
    rows = [row for row in Run.open(run).metrics() if "val_mae" in row]
    baseline = np.mean(np.abs(np.array(trained) - np.mean(trained)))
    assert [row["val_skill"] for row in rows] == pytest.approx([1 - row["val_mae"] / baseline for row in rows])
    assert "MAE skill score" in (run / "report.html").read_text()


def test_a_number_is_predicted_for_each_new_scan(
    run: Path, tiny_sorted: Sorted, tmp_path: Path, run_voxmim: RunVoxmim
) -> None:
    scan = tiny_sorted.source / "imagesTr" / "scan_25.nii.gz"
    status, out, _ = run_voxmim("predict", run, scan, "--out", tmp_path)
    assert status == 0
    assert "the predictions" in out
    (row,) = csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines())
    result = api.evaluate(run, tiny_sorted.store)
    expected = next(case["predicted"] for case in result["cases"] if case["case"] == "scan_25")
    assert float(row["predicted"]) == pytest.approx(expected, rel=1e-4)


def test_training_continues_from_a_regressor(run: Path, tiny_sorted: Sorted, values: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"task": "regression", "values": values, "init": run, "settings": {"finetune.steps": 0}}
    again = api.finetune(tiny_sorted.store, tmp_path / "run", **options)
    volume = torch.rand(2, 1, 12, 12, 12)
    torch.testing.assert_close(load_regressor(again)[0](volume), load_regressor(run)[0](volume))


def test_validation_metrics_agree_with_scikit_learn(run: Path, tiny_sorted: Sorted) -> None:
    task = Regression.resume(Store(tiny_sorted.store), Run.open(run).about, 0)
    truth = {name: task.listed["val"][name] for name in ("scan_18", "scan_19")}
    figures = task.figures({name: value + 3 for name, value in truth.items()})
    assert figures["val_mae"] == pytest.approx(3)
    assert figures["val_r2"] == pytest.approx(r2_score(list(truth.values()), [value + 3 for value in truth.values()]))
    assert figures["val_loss"] == pytest.approx(0.5 * (3 / task.std) ** 2)
    assert "val_r2" not in task.figures({"scan_18": 1.0})  # undefined for one case


def test_undefined_metrics_are_left_empty() -> None:
    result = summarise({"a": 4.0}, {"a": 5.0}, guess=3.0)
    assert (result["mae"]["value"], result["mae"]["ci95"], result["r2"]["value"]) == (1.0, None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,value\na,1\nb,old", "the value of case 'b' is 'old', which is no number"),
        ("case,value\na,1\nb,inf", "which is no number"),
        ("case,value\na,1\nb,1", "at least two different values are needed"),
        ("case,age\na,1", "must name the columns case and value"),
    ],
)
def test_an_invalid_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "values.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        read_values(tmp_path / "values.csv")


def test_the_table_of_another_task_is_refused(tiny_sorted: Sorted, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--classes is not for a regression; give --values instead"):
        api.finetune(tiny_sorted.store, tmp_path / "run", task="regression", classes=tiny_sorted.classes)
    with pytest.raises(RunError, match="--values is not for a segmentation; leave it out"):
        api.finetune(tiny_sorted.store, tmp_path / "run", values=tiny_sorted.classes)
    with pytest.raises(RunError, match="a regression needs the value of each scan; give a CSV file with --values"):
        api.finetune(tiny_sorted.store, tmp_path / "run", task="regression", recipe=tiny_sorted.recipe)
