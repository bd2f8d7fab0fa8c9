"""The main workflow on real scans, where available; tests/docs/test_code_blocks.py runs it on phantoms.

VOXMIM_DATA names a folder with msd_hippocampus/ (Task04 of the Medical Segmentation Decathlon, or a part of it)
in the Decathlon's layout, and other archives under their names; its default is ../shared/data
next to the checkout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import voxmim
from conftest import TINY_RECIPE
from voxmim import api
from voxmim.images.formats.dicom import find_series
from voxmim.images.volume import is_scan, open_image, read_volume
from voxmim.recipe import make_recipe, write_recipe
from voxmim.store.format import Store
from voxmim.store.prepare import prepare
from voxmim.training.run import Run

DATA = Path(os.environ.get("VOXMIM_DATA") or Path(__file__).parents[2] / "shared" / "data")
SETTINGS = {
    "crop": None, "crop_voxels": 24**3, "overlap": 0.0,
    "pretrain.steps": 2, "pretrain.checkpoint_every": 2, "finetune.steps": 2, "finetune.validate_every": 2,
}  # fmt: skip


def few_real_cases(folder: Path) -> Path:
    """A source of six real cases: links to the scans, and its own splits."""
    real = DATA / "msd_hippocampus"
    if not (real / "dataset.json").is_file():
        pytest.skip(f"no scans of people in {real}; name the folder that holds msd_hippocampus/ in VOXMIM_DATA")
    for part in real.iterdir():
        if part.name != "splits.json":
            (folder / part.name).symlink_to(part.resolve())
    names = sorted(file.name.removesuffix(".nii.gz") for file in (real / "labelsTr").glob("[!.]*.nii.gz"))[:6]
    splits = {"train": names[:4], "val": names[4:5], "test": names[5:], "unlabelled": []}
    (folder / "splits.json").write_text(json.dumps(splits))
    return folder


def test_scans_are_prepared_used_for_training_and_labelled(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    few_real_cases(source)
    result = prepare(source, tmp_path / "store", workers=1, quiet=True)
    assert (result.prepared, result.failed) == (6, [])
    store = Store(result.store)
    assert store.preparation.intensity == "mr"
    assert all(case.counts for case in store.cases.values())

    write_recipe(tmp_path / "tiny.yaml", make_recipe(TINY_RECIPE))
    encoder = api.pretrain(store.path, tmp_path / "pretrain", tmp_path / "tiny.yaml", SETTINGS)
    segmentor = api.finetune(store.path, tmp_path / "finetune", encoder)
    for run in (encoder, segmentor):
        assert [row["step"] for row in Run.open(run).metrics()] == [1, 2]
        assert (run / "report.html").is_file()

    (test, *_) = store.in_split("test")
    (label_file,) = api.predict(segmentor, [Path(test.image[0])], tmp_path / "labels")
    label, scan = nib.load(label_file), nib.load(test.image[0])
    assert label.shape == scan.shape
    np.testing.assert_allclose(label.affine, scan.affine, atol=1e-3)
    scores = api.evaluate(segmentor, store.path)
    assert set(scores["labels"]) == set(store.labels.values())
    assert scores["prior"]["mean"]["dice"] > 0.2  # labels and scans have the same position


@pytest.mark.parametrize("folder", ["hippocrop_dicom", "totalsegmentator_examples", "brats2015_deepmedic_nc"])
def test_scans_of_archives_are_read(folder: str) -> None:
    if not (DATA / folder).is_dir():
        pytest.skip(f"no {folder} in {DATA}; name the folder that holds it in VOXMIM_DATA")
    series = find_series(DATA / folder)
    assert [(each.fault, each.notes) for each in series] == [(None, ())] * len(series)
    paths = [each.path for each in series] + sorted(file for file in (DATA / folder).rglob("*") if is_scan(file))[:6]
    assert len(paths) >= 3
    for path in paths:
        image, volume = open_image(path), read_volume(path)
        assert volume.shape == image.grid.shape
        np.testing.assert_array_equal(volume.affine, image.affine)
        assert volume.array.min() < volume.array.max()
        assert image.doubts == ()


def real(*parts: str) -> Path:
    """A file or folder of an archive, if it is there."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no {path}; name the folder that holds {parts[0]} in VOXMIM_DATA")
    return path


def mr_rows(rows: list[str]) -> tuple[Path, Path]:
    """Rows of two BraTS patients, one per split, and of three unlabelled DICOM series of hippocampi."""
    for split, named in (("train", "train"), ("validation", "val")):
        patient = min(path for path in real("brats2015_deepmedic_nc", split).iterdir() if path.is_dir())
        files = (patient / "Flair_subtrMeanDivStd.nii.gz", patient / "OTMultiClass.nii.gz")
        rows.append(",".join([patient.name, *map(str, files), named]))
    studies = sorted(real("hippocrop_dicom").glob("Study*/*_HCropVolume"))
    rows += [f"{study.name},{study},,unlabelled" for study in studies]
    return files[0], studies[0]


def ct_rows(rows: list[str]) -> tuple[Path, Path]:
    """Rows of a CT of the trunk and of a part of it, with label maps of many organs."""
    folder = real("totalsegmentator_examples")
    images = folder / "example_ct.nii.gz", folder / "example_ct_sm.nii.gz"
    labels = folder / "example_seg_fast_force_split.nii.gz", folder / "example_seg.nii.gz"
    rows += [f"{image.name},{image},{label},train" for image, label in zip(images, labels, strict=True)]
    return images


@pytest.mark.parametrize(
    ("archive", "kind", "spacing", "cases", "kinds"),
    [(mr_rows, "mr", (5.0, 5.0, 5.0), 5, set()), (ct_rows, "ct", (9.0, 9.0, 9.0), 2, {"rare label"})],
)
def test_archives_are_inspected_prepared_and_predicted(
    tmp_path: Path,
    archive: Callable[[list[str]], tuple[Path, Path]],
    kind: str,
    spacing: tuple[float, float, float],
    cases: int,
    kinds: set[str],
) -> None:
    rows = ["case,image,label,split"]
    scans = archive(rows)
    (tmp_path / "list.csv").write_text("\n".join(rows))
    inspection = voxmim.inspect(tmp_path / "list.csv", tmp_path / "i.json", tmp_path / "i.html", workers=1)
    assert {finding.kind for finding in inspection.findings} == kinds
    assert (len(inspection.facts), inspection.intensity, inspection.sound) == (cases, kind, True)
    report = json.loads((tmp_path / "i.json").read_text())
    assert report["fingerprint"]["cases"] == cases
    assert "<svg" in (tmp_path / "i.html").read_text()

    result = prepare(tmp_path / "list.csv", tmp_path / "store", spacing, workers=1, quiet=True)
    assert (result.prepared, result.findings) == (cases, inspection.findings)
    write_recipe(tmp_path / "tiny.yaml", make_recipe(TINY_RECIPE))
    segmentor = api.finetune(result.store, tmp_path / "run", recipe=tmp_path / "tiny.yaml", settings=SETTINGS)
    for scan, label_file in zip(scans, api.predict(segmentor, scans, tmp_path / "labels"), strict=True):
        grid, label = open_image(scan).grid, nib.load(label_file)
        assert label.shape == grid.shape
        np.testing.assert_allclose(label.affine, grid.affine, atol=1e-3)
