"""A metric needs only an entry in `METRICS`."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import TinyRuns
from voxmim.cli import main
from voxmim.studies.tables import difference_table
from voxmim.tasks.metrics import METRICS, Masks, Metric, cells, convention, headings


def volume_error(masks: Masks) -> float:
    voxel = float(np.prod(masks.spacing)) / 1000
    return abs(int(masks.prediction.sum()) - int(masks.reference.sum())) * voxel


TOY = Metric(volume_error, "Volume error", "ml", 1, higher_is_better=False, absent=99.0)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "volume_error_ml", TOY)


@pytest.mark.usefixtures("toy")
def test_a_new_metric_is_in_table_json_csv_and_page(
    tiny_runs: TinyRuns, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run, rows_file = tmp_path / "run", tmp_path / "rows.csv"
    shutil.copytree(tiny_runs.finetune, run)
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", str(run), str(tiny_runs.store), "--split", "val", "--csv", str(rows_file)])
    result = json.loads((run / "evaluation-val.json").read_text())
    expected = TOY.text(result["labels"]["bone"]["volume_error_ml"])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ bone"))
    assert expected in row
    with rows_file.open(newline="") as file:
        first = next(csv.DictReader(file))
    assert float(first["volume_error_ml"]) == result["cases"][0]["volume_error_ml"][first["label"]]
    page = (run / "report.html").read_text()
    assert "Volume error (ml)" in page
    assert "Volume error 99" in page  # the convention


@pytest.mark.usefixtures("toy")
def test_studies_compare_arms_by_a_new_metric() -> None:
    class FakeComparison:
        seeds = (0, 1)

        def tested(self, *arms: object, metric: str) -> list[np.ndarray]:
            return [np.full((2, 3), 1.0), np.full((2, 3), 3.5 if metric == "volume_error_ml" else 1.0)]

    class Arm:
        name = full_name = "an arm"

        def pretrain(self, seed: int) -> None:
            """From scratch."""

    table = difference_table(FakeComparison(), [(Arm(), Arm())])  # type: ignore[arg-type, list-item]
    assert table.header[-1] == "Volume error (ml)"
    assert table.rows[0][-1].startswith("+2.5 (+2.5 to +2.5)")


def test_a_row_shows_each_metric_with_its_digits_and_the_interval_of_dice() -> None:
    assert headings(1.5) == ["Dice", "95 % interval", "HD95 (mm)", "NSD (1.5 mm)"]
    scores = {"dice": 0.98765, "hd95_mm": 3.14159, "nsd": None, "ci95": [0.9, 1.0]}
    assert cells(scores) == ["0.988", "0.900 to 1.000", "3.14", "–"]
    assert cells({"dice": None, "ci95": None}) == ["–", "–", "–", "–"]  # from before the other metrics existed


def test_the_convention_says_what_an_absent_label_scores() -> None:
    assert "scores Dice 0, HD95 the diagonal of the scan, NSD 0." in convention()
