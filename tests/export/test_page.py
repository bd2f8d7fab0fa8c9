"""The commands of docs/export.md on a small network, and the results of other programs with the exported files."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime
import pytest

from conftest import TinyRuns, tiny_case
from dicom_files import write_series
from torchless import run_torchless
from voxmim import api
from voxmim.cli import main
from voxmim.images.volume import Volume, write_volume

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"^(?:\$ )?((?:voxmim|python) .*)$")
# Runs a module as if voxmim were not installed.
WITHOUT_VOXMIM = (
    "import runpy, sys; sys.modules['voxmim'] = None; sys.argv = sys.argv[1:]; "
    "runpy.run_module(sys.argv[0], run_name='__main__')"
)


def commands() -> list[str]:
    """The commands in the page's blocks; in blocks with prompts, the other lines are output."""
    blocks = re.findall(
        r"^```(?:sh|console)\n(.*?)^```", (ROOT / "docs" / "export.md").read_text(), re.MULTILINE | re.DOTALL
    )
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("$ ") or "$ " not in block]
    return [match[1] for line in lines if (match := COMMAND.match(line))]


def run(command: str) -> None:
    """Run one command in the current folder."""
    program, *arguments = shlex.split(command)
    if program == "voxmim":
        with pytest.raises(SystemExit) as exit_info:
            main(arguments)
        assert not exit_info.value.code, command
        return
    if arguments[0] == "-m":
        process = subprocess.run(
            [sys.executable, "-c", WITHOUT_VOXMIM, *arguments[1:]], capture_output=True, text=True, check=False
        )
    else:
        process = run_torchless(Path("packages"), *arguments)
    assert process.returncode == 0, f"{command}\n{process.stderr}"


@pytest.fixture(scope="module")
def page(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all commands of the page have been run."""
    folder = tmp_path_factory.mktemp("page")
    voxels = tiny_case(6, (20, 18, 16))[0]
    rotated = np.array([[0, 0, 1.0, 3], [-1, 0, 0, 20], [0, -1, 0, 5], [0, 0, 0, 1]])
    scans = {
        "plain": (voxels, np.eye(4)),
        "turned": (voxels, rotated),
        "coarse": (voxels[::2], np.diag([2.0, 1, 1, 1])),
        "fine": (voxels.repeat(2, axis=2), np.diag([1, 1, 0.5, 1.0])),
    }
    for name, (array, affine) in scans.items():
        write_volume(folder / "SCANS" / f"{name}.nii.gz", Volume(array[None], affine))
    write_volume(folder / "scan.nii.gz", Volume(voxels[None], np.eye(4)))
    write_series(folder / "SERIES", voxels)
    shutil.copy(ROOT / "examples" / "predict_onnx.py", folder)
    (folder / "segmentor").symlink_to(tiny_runs.finetune)
    (folder / "pretrained").symlink_to(tiny_runs.pretrain)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands():
            run(command)
    return folder


def test_every_format_on_the_page_is_written(page: Path) -> None:
    names = {path.name for path in page.iterdir()}
    assert {"segmentor.onnx", "segmentor-bundle", "segmentor-hub", "embeddings.parquet", "labels"} <= names
    assert (page / "labels" / "SERIES.dcm").is_file()
    assert (page / "labels" / "scan.nii.gz").is_file()


def test_monais_bundle_runner_agrees_with_voxmim_for_any_orientation_and_voxel_size(page: Path) -> None:
    for ours in api.predict(page / "segmentor", [page / "SCANS"], page / "ours"):
        label, theirs = nib.load(ours), nib.load(page / "labels" / ours.name)
        np.testing.assert_allclose(theirs.affine, label.affine)
        assert theirs.get_data_dtype() == np.uint8
        assert len(np.unique(label.dataobj)) > 1
        np.testing.assert_array_equal(np.asarray(theirs.dataobj), np.asarray(label.dataobj))


def test_the_onnx_file_describes_its_inputs_and_outputs(page: Path) -> None:
    session = onnxruntime.InferenceSession(page / "segmentor.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["voxmim"])
    assert session.get_inputs()[0].shape == ["batch", 1, 12, 12, 12]
    assert about["labels"] == {"1": "bone", "2": "fat"}
    assert about["preparation"]["intensity"] == "ct"
    assert {"window", "crop", "overlap", "remove_small_components", "values", "regions"} <= about.keys()


def dice(one: np.ndarray, other: np.ndarray) -> list[float]:
    labels = np.union1d(np.unique(one), np.unique(other))
    return [2 * ((one == v) & (other == v)).sum() / ((one == v).sum() + (other == v).sum()) for v in labels if v]


def test_the_onnx_script_agrees_with_voxmim_for_any_orientation_and_voxel_size(page: Path, tmp_path: Path) -> None:
    scans, script = sorted((page / "SCANS").iterdir()), page / "predict_onnx.py"
    process = run_torchless(
        tmp_path / "packages", script, page / "segmentor.onnx", *scans, "--out", tmp_path / "script"
    )
    assert process.returncode == 0, process.stderr
    for ours in api.predict(page / "segmentor", scans, tmp_path / "voxmim"):
        label, theirs = nib.load(ours), nib.load(tmp_path / "script" / ours.name)
        np.testing.assert_allclose(theirs.affine, label.affine)
        scores = dice(np.asarray(theirs.dataobj), np.asarray(label.dataobj))
        assert scores
        assert min(scores) >= 0.999
