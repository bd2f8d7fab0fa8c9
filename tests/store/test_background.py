"""Skull-stripped MR: background, padding and missing channels have one value, and tissue is z-scored."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import NormalizeIntensity

from voxmim.images.volume import Volume, write_volume
from voxmim.store.crops import CropPlan, Crops
from voxmim.store.format import Preparation, Store
from voxmim.store.prepare import prepare, prepare_scan


def stripped(seed: int, background: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A brain that touches one face of its volume, in a constant background; and its mask."""
    rng = np.random.default_rng(seed)
    place = np.indices((16, 18, 14)) - np.array([5, 9, 7])[:, None, None, None]
    brain = np.sum(place**2, axis=0) < 30
    return np.where(brain, background + rng.uniform(200, 600, brain.shape), background).astype(np.float32), brain


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two cases with two sequences, one of them without the second."""
    for name, channels in (("a", (0, 1)), ("b", (0,))):
        for channel in channels:
            scan, _ = stripped(channel)
            write_volume(tmp_path / f"source/imagesTr/{name}_000{channel}.nii.gz", Volume(scan[None], np.eye(4)))
    dataset = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0}}
    (tmp_path / "source/dataset.json").write_text(json.dumps(dataset))
    return tmp_path / "source"


@pytest.mark.parametrize("background", [0.0, -1000.0])
def test_tissue_is_z_scored_over_the_tissue_and_the_background_is_zero(tmp_path: Path, background: float) -> None:
    scan, brain = stripped(0, background)
    write_volume(tmp_path / "a.nii.gz", Volume(scan[None], np.eye(4)))
    prepared = prepare_scan([tmp_path / "a.nii.gz"], Preparation((1.0, 1.0, 1.0), "mr", ("T1",)))
    start = np.rint(prepared.grid.affine[:3, 3]).astype(int)
    box = tuple(slice(at, at + n) for at, n in zip(start, prepared.grid.shape, strict=True))
    paper = NormalizeIntensity(nonzero=True, channel_wise=True)((scan - background)[None])[0][box]
    np.testing.assert_allclose(prepared.image[0].astype(float), paper, atol=0.05)
    np.testing.assert_array_equal(prepared.image[0] == 0, ~brain[box])
    np.testing.assert_allclose(prepared.intensities[0].invert(prepared.image[0]), scan[box], atol=1)


def test_background_padding_and_missing_channels_have_one_value(source: Path, tmp_path: Path) -> None:
    store = Store(prepare(source, tmp_path / "store", (1.0, 1.0, 1.0), "mr", workers=1, quiet=True).store)
    crop = store.crop("a", (-4, -4, -4), (26, 26, 26))
    padded = np.ones(crop.shape[1:], bool)
    padded[tuple(slice(4, 4 + n) for n in store.cases["a"].shape)] = False
    corner = store.image("a")[:, 0, 0, 0]
    assert set(np.unique(crop[:, padded])) == set(corner) == {np.float16(store.preparation.outside)}
    assert np.all(store.image("b")[1] == store.preparation.outside)
    image = Crops(store, [store.cases["b"]], CropPlan((24, 24, 24), (0, 1), 0))[0][0]
    assert float(image[0, 0, 0, 0]) == float(image[1].unique()) == store.preparation.outside


def test_an_old_store_keeps_scaling_the_background(source: Path, tmp_path: Path) -> None:
    old = Preparation.from_dict({"spacing": [1, 1, 1], "intensity": "mr", "channels": ["T1"]})  # as in old weights
    file = source / "imagesTr/a_0000.nii.gz"
    before, now = (prepare_scan([file], one) for one in (old, Preparation((1.0, 1.0, 1.0), "mr", ("T1",))))
    assert before.image[0, 0, 0, 0] == pytest.approx(-before.intensities[0].centre / before.intensities[0].scale, 1e-3)
    assert now.image[0, 0, 0, 0] == 0
    out = prepare(source, tmp_path / "store", (1.0, 1.0, 1.0), "mr", workers=1, quiet=True).store
    index = json.loads((out / "index.json").read_text())
    del index["preparation"]["zero_background"]
    (out / "index.json").write_text(json.dumps(index))
    (out / "images" / "a.b2nd").unlink()
    prepare(source, out, workers=1, quiet=True)
    assert Store(out).image("a")[0, 0, 0, 0] < -1
    assert not asdict(Store(out).preparation)["zero_background"]
