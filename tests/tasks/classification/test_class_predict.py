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


def test_new_scans_get_the_probabilities_of_an_evaluation(tiny_sorted: Sorted, tmp_path: Path) -> None:
    scans = tiny_sorted.source / "imagesTr"
    seen: list[tuple[int, int]] = []
    (table,) = api.predict(tiny_sorted.run, [scans], tmp_path / "out", on_case=lambda *at: seen.append(at))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["predictions.csv"]
    rows = {row["case"]: row for row in csv.DictReader(table.open())}
    assert len(rows) == 30
    assert seen == [(done, 30) for done in range(31)]
    classifier = Predictor(*load_classifier(tiny_sorted.run))
    for name in ("scan_4", "scan_27"):
        image = classifier.image(prepare_scan((scans / f"{name}.nii.gz",), classifier.preparation))
        found = class_probabilities(classifier.network, image, classifier.crop, classifier.metadata["precision"])
        told = [float(rows[name][f"probability {one}"]) for one in ("dense", "light")]
        assert told == pytest.approx(found.tolist(), abs=1e-6)
        assert rows[name]["predicted"] == ("dense" if found[0] > found[1] else "light")
    (again,) = api.predict(tiny_sorted.run / "classifier.safetensors", [scans], tmp_path / "again")
    assert again.read_bytes() == table.read_bytes()


def test_a_scan_that_cannot_be_used_is_left_out(
    tiny_sorted: Sorted, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_a_pre_training_cannot_predict(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    for run in (tiny_runs.pretrain, tiny_runs.pretrain / "encoder.safetensors"):
        with pytest.raises(
            WeightsError, match=r"no segmentor\.safetensors here, but encoder|these are encoder weights"
        ):
            api.predict(run, [tiny_runs.source], tmp_path / "out")
