from __future__ import annotations

import csv
from pathlib import Path

import pytest

from conftest import Sorted, TinyRuns
from voxmim import api
from voxmim.errors import ScanError, SourceError, WeightsError
from voxmim.store.prepare import prepare_scan
from voxmim.tasks.classification.inference import class_probabilities
from voxmim.tasks.task import Predictor
from voxmim.weights.load import load_classifier


def test_predictions_for_new_scans_agree_with_the_network(tiny_sorted: Sorted, tmp_path: Path) -> None:
    scans = tiny_sorted.source / "imagesTr"
    progress: list[tuple[int, int]] = []
    (table,) = api.predict(tiny_sorted.run, [scans], tmp_path / "out", on_case=lambda *at: progress.append(at))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["predictions.csv"]
    rows = {row["case"]: row for row in csv.DictReader(table.open())}
    assert len(rows) == 30
    assert progress == [(done, 30) for done in range(31)]
    classifier = Predictor(*load_classifier(tiny_sorted.run))
    for name in ("scan_4", "scan_27"):
        image = classifier.image(prepare_scan((scans / f"{name}.nii.gz",), classifier.preparation))
        probabilities = class_probabilities(
            classifier.network, image, classifier.crop, classifier.metadata["precision"]
        )
        written = [float(rows[name][f"probability {one}"]) for one in ("dense", "light")]
        assert written == pytest.approx(probabilities.tolist(), abs=1e-6)
        assert rows[name]["predicted"] == ("dense" if probabilities[0] > probabilities[1] else "light")
    (again,) = api.predict(tiny_sorted.run / "classifier.safetensors", [scans], tmp_path / "again")
    assert again.read_bytes() == table.read_bytes()


def test_an_unusable_scan_is_left_out(tiny_sorted: Sorted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tiny_sorted.source / "imagesTr" / "scan_1.nii.gz"
    (tmp_path / "x.nii.gz").write_bytes(whole.read_bytes()[:300])
    (table,) = api.predict(tiny_sorted.run, [whole, tmp_path / "x.nii.gz"], tmp_path / "out")
    assert [line.split(",")[0] for line in table.read_text().splitlines()] == ["case", "scan_1"]
    assert f"left out: {tmp_path / 'x.nii.gz'}" in capsys.readouterr().err
    with pytest.raises(ScanError):
        api.predict(tiny_sorted.run, [tmp_path / "x.nii.gz"], tmp_path / "none")
    assert not (tmp_path / "none").exists()
    with pytest.raises(SourceError, match="there is no such scan or folder"):
        api.predict(tiny_sorted.run, [tmp_path / "gone.nii"], tmp_path / "out")


def test_a_pre_training_run_is_refused(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    for run in (tiny_runs.pretrain, tiny_runs.pretrain / "encoder.safetensors"):
        with pytest.raises(
            WeightsError, match=r"no segmentor\.safetensors here, but encoder|these are encoder weights"
        ):
            api.predict(run, [tiny_runs.source], tmp_path / "out")
