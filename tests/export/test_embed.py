"""One vector per scan, which does not depend on the file format and is similar for similar scans."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy.stats import binomtest
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from conftest import Sorted, TinyRuns
from dicom_files import write_series
from voxmim import api
from voxmim.errors import MissingPackageError, ScanError, WeightsError

RunVoxmim = Callable[..., tuple[int, str, str]]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_the_embedding_does_not_depend_on_format_or_orientation(
    tiny_runs: TinyRuns, write_scan: Callable[..., Path], tmp_path: Path
) -> None:
    scans = tmp_path / "scans"
    write_series(scans / "dicom", np.asarray(nib.load(tiny_runs.source / "imagesTr" / "case_6.nii.gz").dataobj))
    plain = api.read_volume(scans / "dicom")
    write_scan(scans / "plain.nii.gz", plain.array[0], plain.affine)
    sitk.WriteImage(sitk.ReadImage(scans / "plain.nii.gz"), scans / "nrrd.nrrd")
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = plain.array.shape[1] - 1
    write_scan(scans / "flipped.nii.gz", plain.array[0, ::-1], plain.affine @ flip)
    write_scan(scans / "permuted.nii.gz", plain.array[0].transpose(2, 0, 1), plain.affine @ np.eye(4)[:, [2, 0, 1, 3]])
    api.embed(tiny_runs.pretrain, [scans], tmp_path / "a.parquet")
    table = pd.read_parquet(tmp_path / "a.parquet").set_index("case")["embedding"]
    assert sorted(table.index) == ["dicom", "flipped", "nrrd", "permuted", "plain"]
    assert all(len(vector) == 24 and cosine(vector, table["plain"]) >= 0.999 for vector in table)


def test_nearest_neighbours_predict_the_classes_of_scans(
    tiny_runs: TinyRuns, tiny_sorted: Sorted, tmp_path: Path
) -> None:
    """Leave-one-out k-NN of scikit-learn with a pre-trained encoder that has not seen these scans or any label."""
    api.embed(tiny_runs.pretrain, [tiny_sorted.source / "imagesTr"], tmp_path / "a.parquet")
    classes = pd.read_csv(tiny_sorted.classes).set_index("case")["class"]
    table = pd.read_parquet(tmp_path / "a.parquet")
    vectors, truth = np.stack(table["embedding"]), classes[table["case"]].to_numpy()
    predicted = cross_val_predict(KNeighborsClassifier(3), vectors - vectors.mean(axis=0), truth, cv=LeaveOneOut())
    correct = int((predicted == truth).sum())
    assert binomtest(correct, len(truth)).proportion_ci(0.95).low > 0.5, correct


def test_the_printed_neighbours_agree_with_pandas(tiny_runs: TinyRuns, tmp_path: Path, run_voxmim: RunVoxmim) -> None:
    scans = tiny_runs.source / "imagesTr"
    out = tmp_path / "a.parquet"
    status, output, _ = run_voxmim("embed", tiny_runs.finetune, scans, "--out", out, "--nearest", 1)
    assert status == 0
    assert "8 vectors of 24 numbers" in output
    table = pd.read_parquet(out).set_index("case")["embedding"]
    cosines = {name: cosine(table["case_0"], vector) for name, vector in table.items() if name != "case_0"}
    best = max(cosines, key=lambda name: cosines[name])
    assert f"│ case_0 │ {best} ({cosines[best]:.3f})" in output


def test_an_unreadable_scan_is_named_and_left_out(tiny_runs: TinyRuns, tmp_path: Path, run_voxmim: RunVoxmim) -> None:
    good = tiny_runs.source / "imagesTr" / "case_6.nii.gz"
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(good.read_bytes()[:200])
    status, output, errors = run_voxmim("embed", tiny_runs.pretrain, bad, good, "--out", tmp_path / "a.parquet")
    assert status == 1
    assert "1 vector of 24" in output
    assert f"left out: {bad}" in errors
    with pytest.raises(ScanError, match=r"bad\.nii\.gz"):
        api.embed(tiny_runs.pretrain, [bad], tmp_path / "none.parquet")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.parquet", "bad.nii.gz"]


def test_user_errors_are_reported_in_one_sentence(
    tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match=r"a\.csv: the file name must end in \.parquet"):
        api.embed(tiny_runs.pretrain, [tiny_runs.source], tmp_path / "a.csv")
    with pytest.raises(WeightsError, match="there is no encoder"):
        api.embed(tmp_path, [tiny_runs.source], tmp_path / "a.parquet")
    monkeypatch.setattr("voxmim.errors.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"voxmim embed needs pyarrow: run pip install 'voxmim\[export\]'"):
        api.embed(tiny_runs.pretrain, [tiny_runs.source], tmp_path / "a.parquet")
