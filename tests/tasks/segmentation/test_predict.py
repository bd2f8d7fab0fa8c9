"""Predicted label maps as read by nibabel: voxels, shapes and world coordinates."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from conftest import TinyRuns, tiny_case
from dicom_files import OBLIQUE, PATIENT, write_series
from voxmim import api
from voxmim.errors import ScanError, SourceError, WeightsError
from voxmim.images.volume import read_volume
from voxmim.tasks.segmentation.predict import predict

Scan = Callable[..., Path]
Fake = Callable[..., None]
SPACING = (1.0, 1.5, 2.0)
BONE = {1: (0.65, 2.0)}
ORIENTATIONS = [
    "".join(axes) for order in itertools.permutations(("RL", "AP", "SI")) for axes in itertools.product(*order)
]
PROPER = [code for code in ORIENTATIONS if np.linalg.det(nib.orientations.inv_ornt_aff(
    nib.orientations.axcodes2ornt(code), (2, 2, 2))[:3, :3]) > 0]  # fmt: skip


def bright_block(shape: tuple[int, int, int] = (12, 10, 14)) -> np.ndarray:
    """Air, a body, and in it a bright shape without symmetry; HU."""
    scan = np.full(shape, -1000, dtype=np.int16)
    scan[1:-1, 1:-1, 1:-1] = 40
    scan[2:9, 3:5, 2:4] = 300
    scan[2:4, 3:8, 2:4] = 300
    scan[2:4, 3:5, 2:12] = 300
    return scan


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def assert_bright_voxels_are_labelled(label_file: Path, scan_file: Path) -> None:
    """Check that exactly the bright voxels are labelled, in the grid of the scan."""
    label, scan = nib.load(label_file), nib.load(scan_file)
    assert label.shape == scan.shape
    np.testing.assert_allclose(label.affine, scan.affine, atol=1e-4)
    assert label.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(label.dataobj), np.asarray(scan.dataobj) > 200)


def places(file: Path) -> np.ndarray:
    """(n, 3) world coordinates of the labelled voxels, sorted."""
    label = nib.load(file)
    world = nib.affines.apply_affine(label.affine, np.argwhere(np.asarray(label.dataobj) == 1))
    return np.array(sorted(np.round(world, 3).tolist()))


def test_there_are_24_proper_orientations() -> None:
    assert (len(ORIENTATIONS), len(PROPER)) == (48, 24)


def test_a_known_shape_has_the_same_position_in_all_orientations(tmp_path: Path, fake_segmentor: Fake) -> None:
    """All 24 proper orientations of the axes, and their 24 mirror images."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = (-7, 20, 3.5)
    original = nib.Nifti1Image(bright_block(), affine)
    for code in ORIENTATIONS:
        transform = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(code)
        )
        reoriented = original.as_reoriented(transform)
        assert "".join(nib.aff2axcodes(reoriented.affine)) == code
        save(tmp_path / "scans" / f"{code}.nii.gz", np.asarray(reoriented.dataobj), reoriented.affine)
    fake_segmentor(SPACING, BONE)
    written = predict(tmp_path, [tmp_path / "scans"], tmp_path / "out")
    assert sorted(file.name for file in written) == sorted(f"{code}.nii.gz" for code in ORIENTATIONS)
    expected = nib.affines.apply_affine(affine, np.argwhere(bright_block() > 200))
    for file in written:
        assert_bright_voxels_are_labelled(file, tmp_path / "scans" / file.name)
        np.testing.assert_allclose(places(file), np.array(sorted(expected.tolist())), atol=2e-3)


def test_oblique_and_flipped_scans_are_labelled_in_their_own_grid(tmp_path: Path, fake_segmentor: Fake) -> None:
    rotations = Rotation.random(12, random_state=0).as_matrix()
    for i, rotation in enumerate(rotations):
        affine = np.eye(4)
        affine[:3, :3] = rotation * 1.3 * (-1 if i % 2 else 1)  # every second one is mirrored
        affine[:3, 3] = (100, -50, 7 * i)
        save(tmp_path / "scans" / f"scan_{i}.nii", bright_block(), affine)
    fake_segmentor((1.3, 1.3, 1.3), BONE)
    for file in predict(tmp_path, [tmp_path / "scans"], tmp_path / "out"):
        assert_bright_voxels_are_labelled(file, tmp_path / "scans" / file.name.removesuffix(".gz"))


def test_a_resampled_oblique_anisotropic_scan_is_labelled_in_place(tmp_path: Path, fake_segmentor: Fake) -> None:
    """A ball, prepared at another spacing: its volume and its centre in world coordinates do not change."""
    spacing = np.array([0.8, 1.3, 2.6])
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [12, -20, 160], degrees=True).as_matrix() * spacing
    shape = (46, 30, 16)
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    ball = np.linalg.norm((index - (20, 17, 7)) * spacing, axis=-1) < 11
    scan = np.full(shape, -1000, dtype=np.int16)
    scan[2:-2, 2:-2, 1:-1] = 40
    scan[ball] = 300
    fake_segmentor((1.5, 1.5, 1.5), {1: (0.7125, 2.0)})  # halfway between 40 and 300 HU
    (file,) = predict(tmp_path, [save(tmp_path / "ball.nii.gz", scan, affine)], tmp_path / "out")
    labelled = np.asarray(nib.load(file).dataobj) == 1
    assert 2 * (labelled & ball).sum() / (labelled.sum() + ball.sum()) > 0.93
    assert labelled.sum() == pytest.approx(ball.sum(), rel=0.05)
    offset = (np.argwhere(labelled).mean(axis=0) - np.argwhere(ball).mean(axis=0)) * spacing
    assert np.abs(offset).max() < 0.1  # mm


@pytest.fixture
def oblique_scan(tmp_path: Path, write_scan: Scan) -> Path:
    """A scan that must be resampled."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("z", 200, degrees=True).as_matrix() * (0.7, 1.2, 1.1)
    return write_scan(tmp_path / "oblique.nii.gz", tiny_case(5, (28, 18, 16))[0], affine)


def test_probabilities_sum_to_one_and_agree_with_the_labels(
    tmp_path: Path, oblique_scan: Path, fake_segmentor: Fake
) -> None:
    fake_segmentor()
    written = predict(tmp_path, [oblique_scan], tmp_path / "out", probabilities=True)
    assert written == [tmp_path / "out" / "oblique.nii.gz"]
    labels = nib.load(written[0])
    probabilities = nib.load(tmp_path / "out" / "oblique_probabilities.nii.gz")
    assert probabilities.shape == (*nib.load(oblique_scan).shape, 3)
    np.testing.assert_allclose(probabilities.affine, labels.affine, atol=1e-5)
    array = np.asarray(probabilities.dataobj)
    np.testing.assert_allclose(array.sum(axis=-1), 1, atol=1e-5)
    assert np.unique(labels.dataobj).tolist() == [0, 1, 2]
    assert np.mean(np.abs(array - 0.5) < 0.45) > 0.01  # voxels at the border of two labels
    np.testing.assert_array_equal(array.argmax(axis=-1), np.asarray(labels.dataobj))


def test_probabilities_are_only_written_on_request(tiny_runs: TinyRuns, tmp_path: Path, oblique_scan: Path) -> None:
    progress: list[tuple[int, int]] = []
    predict(tiny_runs.finetune, [oblique_scan], tmp_path / "out", on_case=lambda done, of: progress.append((done, of)))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["oblique.nii.gz"]
    assert progress == [(0, 1), (1, 1)]


def test_small_components_are_removed_from_the_labels_that_say_so(tmp_path: Path, fake_segmentor: Fake) -> None:
    voxels = bright_block()
    spot = (10, 8, 12)
    voxels[spot] = 300
    scan = save(tmp_path / "scan.nii.gz", voxels, np.eye(4))

    def spot_of(out: str, cleaned: list[str], **options: bool) -> int:
        fake_segmentor(bands=BONE, cleaned=cleaned)
        (file,) = api.predict(tmp_path, [scan], tmp_path / out, **options)
        labels = np.asarray(nib.load(file).dataobj)
        labels[spot], found = 0, int(labels[spot])
        np.testing.assert_array_equal(labels, bright_block() > 200)
        return found

    assert spot_of("cleaned", ["bone"]) == 0
    assert spot_of("others", ["fat"]) == 1
    assert spot_of("whole", ["bone"], all_components=True) == 1


# Input scans


def test_a_dicom_folder_is_labelled_in_its_own_grid(tmp_path: Path, fake_segmentor: Fake) -> None:
    fake_segmentor(spacing=(0.8, 0.7, 2.5))
    write_series(tmp_path / "study" / "scan", bright_block(), orientation=OBLIQUE)
    write_series(tmp_path / "study" / "scout", bright_block(), uid="1.2.8", t0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER")
    (label_file,) = predict(tmp_path / "run", [tmp_path / "study"], tmp_path / "out")
    assert label_file.name == "scan.nii.gz"
    label, scan = read_volume(label_file), read_volume(tmp_path / "study" / "scan")
    np.testing.assert_allclose(label.affine, scan.affine, atol=1e-4)
    np.testing.assert_array_equal(label.array, scan.array > 200)
    assert PATIENT.encode() not in label_file.read_bytes()


def test_a_missing_scan_is_named(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"gone\.nii\.gz: there is no such scan or folder"):
        api.predict(tiny_runs.finetune, [tmp_path / "gone.nii.gz"], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"empty: no scan was found here"):
        api.predict(tiny_runs.finetune, [tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_scan_is_never_overwritten_by_its_label_map(tiny_runs: TinyRuns, oblique_scan: Path) -> None:
    before = oblique_scan.read_bytes()
    with pytest.raises(SourceError, match=r"oblique\.nii\.gz: .* would replace the scan; name another folder"):
        api.predict(tiny_runs.finetune, [oblique_scan], oblique_scan.parent)
    (oblique_scan.parent / "list.csv").write_text("case,image\na,oblique.nii.gz\noblique,a.nii.gz\n")
    shutil.copy(oblique_scan, oblique_scan.with_name("a.nii.gz"))
    with pytest.raises(SourceError, match=r"a\.nii\.gz: .* would replace the scan"):
        api.predict(tiny_runs.finetune, [oblique_scan.parent / "list.csv"], oblique_scan.parent)
    assert oblique_scan.read_bytes() == before


def test_an_unusable_scan_is_named(tiny_runs: TinyRuns, tmp_path: Path, write_scan: Scan) -> None:
    constant = write_scan(tmp_path / "constant.nii.gz", np.full((8, 8, 8), 7, np.int16))
    with pytest.raises(ScanError, match=r"constant\.nii\.gz: "):
        api.predict(tiny_runs.finetune, [constant], tmp_path / "out")
    (tmp_path / "text.nii.gz").write_text("no scan at all")
    with pytest.raises(ScanError, match=r"text\.nii\.gz: "):
        api.predict(tiny_runs.finetune, [tmp_path / "text.nii.gz"], tmp_path / "out")


def test_other_channels_are_refused_and_another_modality_is_reported(
    tmp_path: Path, fake_segmentor: Fake, write_scan: Scan, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_segmentor()
    voxels = np.random.default_rng(0).uniform(5, 900, (12, 10, 14)).astype(np.float32)
    one = write_scan(tmp_path / "one.nii.gz", voxels)
    two = write_scan(tmp_path / "two.nii.gz", np.stack([voxels, voxels]))
    with pytest.raises(ScanError, match=r"two\.nii\.gz: .*channel") as exc_info:
        predict(Path("run"), [two], tmp_path / "out")
    assert "\n" not in str(exc_info.value)
    assert not (tmp_path / "out").exists()
    predict(Path("run"), [one], tmp_path / "out")
    assert f"{one}: the network was trained on CT, but its values from 5" in capsys.readouterr().err


def test_a_run_without_a_segmentor_is_refused(tiny_runs: TinyRuns, tmp_path: Path, oblique_scan: Path) -> None:
    with pytest.raises(WeightsError, match=r"there is no segmentor\.safetensors here, but encoder\.safetensors"):
        api.predict(tiny_runs.pretrain, [oblique_scan], tmp_path / "out")
    with pytest.raises(WeightsError, match="these are encoder weights, but segmentor weights are needed"):
        api.predict(tiny_runs.pretrain / "encoder.safetensors", [oblique_scan], tmp_path / "out")
