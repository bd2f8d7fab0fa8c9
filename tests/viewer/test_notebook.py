"""Runs in notebooks, and the notebook of the documentation."""

import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbclient
import nbformat
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import voxmim
from conftest import TinyRuns
from voxmim.errors import RunError
from voxmim.viewer import notebook

QUICKSTART = Path(__file__).parents[2] / "docs" / "notebooks" / "quickstart.ipynb"


def pixels(picture: notebook.Png) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture._repr_png_())).convert("RGB"))


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setattr(notebook, "find_spec", lambda name: None if name == package else SimpleNamespace())


def test_metrics_are_a_dataframe_with_pandas_and_otherwise_a_list(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = voxmim.open_run(tiny_runs.finetune)
    assert list(run.metrics["step"]) == [1, 2, 3, 4, 5, 6]
    assert run.metrics["val_dice"].notna().sum() == 2
    without(monkeypatch, "pandas")
    assert [row["step"] for row in run.metrics] == [1, 2, 3, 4, 5, 6]


def test_figures_are_those_of_the_report(tiny_runs: TinyRuns) -> None:
    figures = voxmim.open_run(str(tiny_runs.pretrain)).figures
    assert list(figures) == sorted(file.stem for file in (tiny_runs.pretrain / "figures").glob("*.png"))
    assert all(pixels(figure).std() > 0 for figure in figures.values())


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_without_ipyniivue_a_case_is_a_picture_with_a_row_per_layer(
    tiny_runs: TinyRuns, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "ipyniivue")
    run = voxmim.open_run(getattr(tiny_runs, kind))
    assert run.cases == ["case_4", "case_5"]
    shown, other = pixels(run.show()), pixels(run.show("case_5"))
    rows = {"pretrain": 4, "finetune": 3}[kind]  # scan, masked, reconstruction, error; scan, reference, prediction
    assert 0.5 < shown.shape[0] / shown.shape[1] / (rows / 3) < 1.5
    assert shown.shape != other.shape or (shown != other).any()
    coloured = (np.ptp(shown.astype(int), axis=2) > 60).any(axis=1)
    assert coloured.any()
    assert not coloured[: len(coloured) // rows].any()  # the scan is grey


def test_with_ipyniivue_a_case_is_a_niivue_widget(tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    class Volume(SimpleNamespace):
        def set_colormap_label(self, table: dict[str, Any]) -> None:
            self.table = table

    class NiiVue:
        def load_volumes(self, volumes: list[Volume]) -> None:
            self.volumes = volumes

    monkeypatch.setitem(sys.modules, "ipyniivue", SimpleNamespace(Volume=Volume, NiiVue=NiiVue))
    monkeypatch.setattr(notebook, "find_spec", lambda name: SimpleNamespace())
    scan, reference, prediction = voxmim.open_run(tiny_runs.finetune).show("case_4").volumes
    assert (scan.opacity, reference.opacity, prediction.opacity) == (1, 0, 0.5)
    assert reference.table["labels"] == ["background", "bone", "fat"]
    assert reference.table["A"] == [0, 255, 255]
    read = nib.Nifti1Image.from_bytes(reference.data)
    assert set(np.unique(read.dataobj)) == {0, 1, 2}


def test_an_unknown_case_and_a_folder_that_is_not_a_run_are_named(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="it has no case 'case_44'; did you mean 'case_4'"):
        voxmim.open_run(tiny_runs.finetune).show("case_44")
    with pytest.raises(RunError, match="this is not a run folder"):
        voxmim.open_run(tmp_path)


def test_the_quickstart_notebook_runs(tmp_path: Path) -> None:
    """With trainings of four steps."""
    quickstart = nbformat.read(QUICKSTART, as_version=4)
    assert all(cell.outputs for cell in quickstart.cells if cell.cell_type == "code")
    for cell in quickstart.cells:
        cell.source = re.sub(r'("steps"|"\w+_every"): \d+', r"\1: 4", cell.source)
    nbclient.NotebookClient(quickstart, timeout=250, resources={"metadata": {"path": tmp_path}}).execute()
    (label,) = (tmp_path / "labels").iterdir()
    assert nib.load(label).shape == nib.load(tmp_path / "phantoms" / "imagesTr" / label.name).shape
