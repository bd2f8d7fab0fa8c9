"""A number for each scan: learned, validated, scored and predicted."""

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

Says = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def values(tiny_sorted: Sorted, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dense scans are about 60, light ones about 20."""
    rows = [line.split(",") for line in tiny_sorted.classes.read_text().splitlines()[1:]]
    table = tmp_path_factory.mktemp("values") / "values.csv"
    numbers = [f"{name},{(60 if kind == 'dense' else 20) + place % 5}" for place, (name, kind) in enumerate(rows)]
    table.write_text("\n".join(["case,value", *numbers]))
    return table


@pytest.fixture(scope="module")
def run(tiny_sorted: Sorted, values: Path) -> Path:
    """Learned from the encoder of the classifier, which tells the two kinds."""
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


def test_a_run_says_what_it_learned(run: Path, values: Path) -> None:
    about = Run.open(run).about
    assert (about["task"], about["values"]) == ("regression", str(values.resolve()))
    network, metadata = load_regressor(run)
    trained = [about["listed"]["train"][case] for case in about["cases"]]
    assert metadata["guess"] == pytest.approx(np.mean(trained))
    assert float(network.std) == pytest.approx(np.std(trained))
    rows = [row for row in Run.open(run).metrics() if "val_mae" in row]
    guess = np.mean(np.abs(np.array(trained) - np.mean(trained)))
    assert [row["val_skill"] for row in rows] == pytest.approx([1 - row["val_mae"] / guess for row in rows])
    assert "MAE skill score" in (run / "report.html").read_text()


def test_new_scans_get_a_number_each(run: Path, tiny_sorted: Sorted, tmp_path: Path, voxmim_says: Says) -> None:
    scan = tiny_sorted.source / "imagesTr" / "scan_25.nii.gz"
    status, out, _ = voxmim_says("predict", run, scan, "--out", tmp_path)
    assert status == 0
    assert "the predictions" in out
    (row,) = csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines())
    result = api.evaluate(run, tiny_sorted.store)
    expected = next(case["predicted"] for case in result["cases"] if case["case"] == "scan_25")
    assert float(row["predicted"]) == pytest.approx(expected, rel=1e-4)


def test_a_regressor_goes_on_as_it_is(run: Path, tiny_sorted: Sorted, values: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"task": "regression", "values": values, "init": run, "settings": {"finetune.steps": 0}}
    again = api.finetune(tiny_sorted.store, tmp_path / "run", **options)
    volume = torch.rand(2, 1, 12, 12, 12)
    torch.testing.assert_close(load_regressor(again)[0](volume), load_regressor(run)[0](volume))


def test_validation_is_of_numbers(run: Path, tiny_sorted: Sorted) -> None:
    task = Regression.resume(Store(tiny_sorted.store), Run.open(run).about, 0)
    truth = {name: task.listed["val"][name] for name in ("scan_18", "scan_19")}
    found = task.figures({name: value + 3 for name, value in truth.items()})
    assert found["val_mae"] == pytest.approx(3)
    assert found["val_r2"] == pytest.approx(r2_score(list(truth.values()), [value + 3 for value in truth.values()]))
    assert found["val_loss"] == pytest.approx(0.5 * (3 / task.std) ** 2)
    assert "val_r2" not in task.figures({"scan_18": 1.0})  # of one case it is not defined


def test_what_is_not_defined_is_left_empty() -> None:
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
def test_a_table_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "values.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        read_values(tmp_path / "values.csv")


def test_the_wrong_table_is_refused(tiny_sorted: Sorted, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--classes is not for a regression; give --values instead"):
        api.finetune(tiny_sorted.store, tmp_path / "run", task="regression", classes=tiny_sorted.classes)
    with pytest.raises(RunError, match="--values is not for a segmentation; leave it out"):
        api.finetune(tiny_sorted.store, tmp_path / "run", values=tiny_sorted.classes)
    with pytest.raises(RunError, match="a regression needs the value of each scan; give a CSV file with --values"):
        api.finetune(tiny_sorted.store, tmp_path / "run", task="regression", recipe=tiny_sorted.recipe)
