from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from conftest import TinyRuns, tiny_case
from voxmim import api
from voxmim.errors import SourceError, WeightsError
from voxmim.report.reconstruct import Reconstructor, reconstruct

Scan = Callable[..., Path]
SHAPE = (30, 27, 24)


def load(file: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(file)
    return np.asarray(image.dataobj), image.affine


def oblique(*spacing: float) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [8, -14, 170], degrees=True).as_matrix() * (*spacing[:2], -spacing[2])
    affine[:3, 3] = (-40, 12, 90)
    return affine


@pytest.fixture(params=["as prepared", "flipped and oblique", "resampled"])
def scan(request: pytest.FixtureRequest, tmp_path: Path, write_scan: Scan) -> Path:
    affine = {
        "as prepared": np.eye(4),
        "flipped and oblique": oblique(1, 1, 1),
        "resampled": oblique(0.7, 1.2, 1.4),
    }[request.param]
    return write_scan(tmp_path / "person.nii.gz", tiny_case(3, SHAPE)[0], affine)


def test_a_picture_and_three_volumes_on_the_grid_of_the_scan_are_written(
    tiny_runs: TinyRuns, tmp_path: Path, scan: Path
) -> None:
    out = tmp_path / "out"
    assert reconstruct(tiny_runs.pretrain, [scan], out) == [out / "person.png"]
    assert sorted(file.name for file in out.iterdir()) == [
        "person.png", "person_mask.nii.gz", "person_masked.nii.gz", "person_reconstructed.nii.gz",
    ]  # fmt: skip
    picture = Image.open(io.BytesIO((out / "person.png").read_bytes()))
    assert picture.format == "PNG"
    assert min(picture.size) > 100

    original, affine = load(scan)
    volumes = {}
    for name in ("mask", "masked", "reconstructed"):
        volumes[name], volume_affine = load(out / f"person_{name}.nii.gz")
        assert volumes[name].shape == original.shape
        np.testing.assert_allclose(volume_affine, affine, atol=1e-4)

    hidden = volumes["mask"] == 1
    assert set(np.unique(volumes["mask"])) == {0, 1}
    # visible voxels are unchanged, in the scan's own units
    np.testing.assert_array_equal(volumes["reconstructed"][~hidden], original[~hidden])
    np.testing.assert_array_equal(volumes["masked"][~hidden], original[~hidden])
    assert np.all(volumes["masked"][hidden] == original.min())
    assert np.mean(volumes["reconstructed"][hidden] != original[hidden]) > 0.9
    # three quarters of the box around the person are hidden
    box = tuple(slice(indices.min(), indices.max() + 1) for indices in np.nonzero(hidden))
    assert 0.5 * original.size < hidden[box].size < original.size
    assert hidden[box].mean() == pytest.approx(0.75, abs=0.06)


def test_three_quarters_of_the_prepared_scan_are_hidden(tiny_runs: TinyRuns) -> None:
    reconstructor = Reconstructor.load(tiny_runs.pretrain)
    result = reconstructor.reconstruct(np.random.default_rng(0).random((1, 24, 36, 12), np.float32), 0)
    crops = result.hidden.reshape(2, 12, 3, 12, 1, 12).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(crops, 20 / 27)  # round(0.75 * 27) patches per crop


def test_visible_voxels_are_kept_and_hidden_ones_predicted(tiny_runs: TinyRuns) -> None:
    reconstructor = Reconstructor.load(tiny_runs.pretrain)
    image = np.random.default_rng(0).random((1, 15, 9, 26), np.float32)  # no axis is a whole number of crops
    result = reconstructor.reconstruct(image, seed=4)
    assert result.reconstructed.shape == result.original.shape == image.shape
    assert result.hidden.shape == image.shape[1:]
    np.testing.assert_array_equal(result.reconstructed[0][~result.hidden], image[0][~result.hidden])
    assert np.all(result.reconstructed[0][result.hidden] != image[0][result.hidden])


def test_hidden_voxels_do_not_influence_the_reconstruction(tiny_runs: TinyRuns) -> None:
    """Other values in hidden voxels give the same reconstruction."""
    reconstructor = Reconstructor.load(tiny_runs.pretrain)
    image = np.random.default_rng(0).random((1, 24, 12, 12), np.float32)
    first = reconstructor.reconstruct(image, seed=1)
    changed = np.where(first.hidden, 1 - image, image)
    second = reconstructor.reconstruct(changed, seed=1)
    np.testing.assert_array_equal(first.hidden, second.hidden)
    np.testing.assert_array_equal(first.reconstructed, second.reconstructed)


def test_masks_are_determined_by_the_seed(tiny_runs: TinyRuns) -> None:
    reconstructor = Reconstructor.load(tiny_runs.pretrain)
    image = np.zeros((1, 12, 12, 12), np.float32)
    torch.manual_seed(8)
    hidden = [reconstructor.reconstruct(image, seed).hidden for seed in (1, 1, 2)]
    np.testing.assert_array_equal(hidden[0], hidden[1])
    assert not np.array_equal(hidden[0], hidden[2])


@pytest.mark.parametrize(("kind", "hu"), [("ct", -175), ("mr", 500)])
def test_a_prediction_is_in_the_scans_own_units(
    tiny_runs: TinyRuns, tmp_path: Path, write_scan: Scan, monkeypatch: pytest.MonkeyPatch, kind: str, hu: float
) -> None:
    """A prediction of almost 0 is the lower end of the window in CT, and the mean of the scan in MR."""
    scan = np.zeros((20, 18, 16), np.float32)
    scan[2:-2, 2:-2, 2:-2] = 500 + 50 * np.random.default_rng(0).standard_normal((16, 14, 12))
    file = write_scan(tmp_path / "scan.nii.gz", scan, oblique(1, 1, 1))
    reconstructor = Reconstructor.load(tiny_runs.pretrain)
    reconstructor.preparation = replace(reconstructor.preparation, intensity=kind)
    torch.nn.init.zeros_(reconstructor.network.head.weight)
    torch.nn.init.constant_(reconstructor.network.head.bias, 1e-3)  # an exact 0 would be background
    monkeypatch.setattr(Reconstructor, "load", lambda path: reconstructor)
    reconstruct(tiny_runs.pretrain, [file], tmp_path / "out")
    reconstructed, _ = load(tmp_path / "out" / "scan_reconstructed.nii.gz")
    hidden = load(tmp_path / "out" / "scan_mask.nii.gz")[0] == 1
    np.testing.assert_array_equal(reconstructed[~hidden], load(file)[0][~hidden])
    np.testing.assert_allclose(reconstructed[hidden], hu, atol=5 if kind == "mr" else 0.5)


def test_a_run_or_scan_that_cannot_be_reconstructed_is_refused(
    tiny_runs: TinyRuns, tmp_path: Path, write_scan: Scan
) -> None:
    scan = write_scan(tmp_path / "a.nii.gz", tiny_case(0, (16, 16, 16))[0])
    with pytest.raises(WeightsError, match=r"there is no pretext\.safetensors here, but segmentor\.safetensors"):
        api.reconstruct(tiny_runs.finetune, [scan], tmp_path / "out")
    with pytest.raises(SourceError, match=r"b\.nii\.gz: there is no such scan"):
        api.reconstruct(tiny_runs.pretrain, [tmp_path / "b.nii.gz"], tmp_path / "out")
    alone = shutil.copy(tiny_runs.pretrain / "pretext.safetensors", tmp_path / "weights.safetensors")
    assert api.reconstruct(alone, [tmp_path], tmp_path / "out", seed=1) == [tmp_path / "out" / "a.png"]
