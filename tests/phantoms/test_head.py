from __future__ import annotations

import functools
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from voxmim.doctor.facts import measure
from voxmim.doctor.modality import guess_intensity
from voxmim.errors import VoxmimError
from voxmim.images.volume import Volume, read_volume
from voxmim.phantoms.cohort import write_cohort
from voxmim.phantoms.head import LABELS, REGIONS, SEQUENCES, draw_head
from voxmim.sources import open_source
from voxmim.store.format import Preparation
from voxmim.store.prepare import prepare_scan
from voxmim.tasks.segmentation.prior import PositionPrior

NECROSIS, OEDEMA, ENHANCING = LABELS
T1, T1CE, T2, FLAIR = range(len(SEQUENCES))
SEEDS = range(36)
FEW = range(6)


@functools.cache
def case(seed: int) -> tuple[Volume, Volume]:
    return draw_head(seed)


def image(seed: int) -> np.ndarray:
    """(4, X, Y, Z)"""
    return case(seed)[0].array


def labels(seed: int) -> np.ndarray:
    """(X, Y, Z)"""
    return case(seed)[1].array[0]


def brain(seed: int) -> np.ndarray:
    """(X, Y, Z) mask of the skull-stripped brain."""
    return image(seed)[T1] > 0


def with_tumour() -> list[int]:
    return [seed for seed in SEEDS if labels(seed).any()]


def test_the_seed_determines_the_case() -> None:
    for first, again in zip(case(1), draw_head(1), strict=True):
        assert np.array_equal(first.array, again.array)
        assert np.array_equal(first.affine, again.affine)
    assert not np.array_equal(image(1) > 0, image(2) > 0)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(VoxmimError, match=r"seed -1: .* 0 or more"):
        draw_head(-1)


def test_every_case_has_the_documented_types_sizes_and_geometry() -> None:
    for seed in SEEDS:
        scan, label = case(seed)
        assert (scan.array.dtype, label.array.dtype) == (np.int16, np.uint8)
        assert scan.array.shape == (len(SEQUENCES), 48, 56, 48)
        assert label.array.shape == (1, 48, 56, 48)
        assert np.array_equal(scan.affine, label.affine)
        assert np.array_equal(np.sign(np.diag(scan.affine)), [-1, -1, 1, 1])  # LPS
        middle = scan.affine @ [23.5, 27.5, 23.5, 1]
        assert np.allclose(middle, [0, 0, 0, 1])


def test_the_skull_is_stripped_and_the_background_is_0() -> None:
    for seed in SEEDS:
        inside = image(seed) > 0
        assert np.all(inside == inside[0])
        assert np.all(labels(seed)[~inside[0]] == 0)
        litres = inside[0].sum() * case(seed)[0].spacing.prod() / 1e6
        assert 1.0 < litres < 2.1
        components, _ = ndimage.label(inside[0])
        assert np.bincount(components.ravel())[1:].max() > 0.999 * inside[0].sum()
        faces = [np.take(inside[0], end, axis) for axis in range(3) for end in (0, -1)]
        assert not any(face.any() for face in faces)


def test_brains_of_different_seeds_differ() -> None:
    sizes = [brain(seed).sum() for seed in SEEDS]
    assert max(sizes) > 1.25 * min(sizes)
    for a, b in itertools.combinations(FEW, 2):
        both = ndimage.binary_erosion(brain(a) & brain(b), iterations=3)
        assert np.corrcoef(image(a)[T1][both], image(b)[T1][both])[0, 1] < 0.6


def test_tissues_have_the_contrast_of_each_sequence() -> None:
    """Fluid is dark in T1 and bright in T2; white matter is bright in T1 and dark in T2."""
    for seed in FEW:
        healthy = ndimage.binary_erosion(brain(seed)) & (labels(seed) == 0)
        t1, t1ce, t2, flair = (channel[healthy] for channel in image(seed))
        levels = np.quantile(t1, [0.02, 0.3, 0.5, 0.95])
        fluid, grey, white = t1 < levels[0], (t1 > levels[1]) & (t1 < levels[2]), t1 > levels[3]
        assert np.median(t2[fluid]) > 1.3 * np.median(t2[grey]) > 1.6 * np.median(t2[white])
        assert np.median(t1ce[white]) > 1.2 * np.median(t1ce[grey]) > 1.8 * np.median(t1ce[fluid])
        assert np.median(flair[fluid]) < 0.6 * min(np.median(flair[grey]), np.median(flair[white]))


def test_a_tumour_has_the_contrast_of_each_sequence() -> None:
    ratios = []
    for seed in with_tumour():
        healthy = brain(seed) & (labels(seed) == 0)
        parts = [labels(seed) == value for value in (OEDEMA, ENHANCING, NECROSIS)]
        if parts[-1].any():
            ratios.append([[np.median(c[part]) / np.median(c[healthy]) for c in image(seed)] for part in parts])
    oedema, rim, core = np.median(ratios, axis=0)
    assert oedema[FLAIR] > 1.5
    assert oedema[T2] > 1.1
    assert oedema[T1] < 0.97
    assert rim[T1CE] > 1.3
    assert rim[T1] < 0.9
    assert core[T1CE] < 0.6 * rim[T1CE]
    assert core[T1] < 0.8 * oedema[T1]
    assert core[FLAIR] < 0.8 * oedema[FLAIR]
    assert all(rim[T1CE] > 1.2 * rim[T1] for _, rim, _ in ratios)


def test_bright_voxels_are_not_all_tumour() -> None:
    """Vessels enhance and white matter lesions are bright in FLAIR, so no threshold segments the tumour."""
    for sequence, region in ((T1CE, "ET"), (FLAIR, "WT")):
        dice = []
        for seed in with_tumour():
            truth, channel = np.isin(labels(seed), REGIONS[region]), image(seed)[sequence]
            levels = np.quantile(channel[brain(seed)], np.linspace(0.5, 0.999, 30))
            dice.append(max(2 * (truth & (channel > t)).sum() / (truth.sum() + (channel > t).sum()) for t in levels))
        assert 0.2 < np.mean(dice) < 0.85
        assert min(dice) < 0.4


def test_some_cases_have_no_tumour_and_some_a_tiny_one() -> None:
    sizes = np.array([np.sum(labels(seed) > 0) for seed in SEEDS])
    assert 0.05 < np.mean(sizes == 0) < 0.35
    assert 0.03 < np.mean((sizes > 0) & (sizes < 200)) < 0.35
    assert max(sizes) > 2000


def test_necrosis_is_inside_the_enhancing_rim_and_the_rim_inside_oedema() -> None:
    for seed in with_tumour():
        whole, core, necrosis = (np.isin(labels(seed), values) for values in (REGIONS["WT"], REGIONS["TC"], [NECROSIS]))
        assert np.sum(labels(seed) == ENHANCING) > 0
        assert np.sum(labels(seed) == OEDEMA) > 0
        shell = ndimage.binary_dilation(core) & ~core
        assert np.mean(whole[shell]) > 0.4  # the rest is fluid, cortex and the surface of the brain
        if necrosis.sum() > 30:
            shell = ndimage.binary_dilation(necrosis) & ~necrosis
            assert np.mean(labels(seed)[shell] == ENHANCING) > 0.55
        components, _ = ndimage.label(whole, np.ones((3, 3, 3)))
        assert np.bincount(components.ravel())[1:].max() > 0.85 * whole.sum()


def test_tumours_are_anywhere_in_the_cerebrum() -> None:
    centres = 3.8 * np.array([ndimage.center_of_mass(labels(seed) > 0) for seed in with_tumour()])  # mm
    assert np.all(centres.std(axis=0) > (15, 20, 10))
    assert 0.25 < np.mean(centres[:, 0] < 3.8 * 23.5) < 0.75  # on both sides


def test_position_alone_does_not_predict_the_tumours() -> None:
    """Only cases with a tumour, since an empty prediction would be correct for the others."""
    boxes = {seed: ndimage.find_objects(brain(seed).astype(int))[0] for seed in with_tumour()}
    for values in REGIONS.values():
        masks = [np.isin(labels(seed)[box], values).astype(np.uint8) for seed, box in boxes.items()]
        prior = PositionPrior.fit(masks[:20], [1], grid=40)
        predictions = [prior.predict(mask.shape) for mask in masks[20:]]
        dice = [2 * np.sum(a & b) / (a.sum() + b.sum()) for a, b in zip(predictions, masks[20:], strict=True)]
        assert max(prediction.sum() for prediction in predictions) > 0
        assert np.mean(dice) < 0.3


def test_hidden_voxels_can_be_predicted_from_their_surroundings() -> None:
    """A linear model of the voxels two steps away explains part of the variance of each sequence."""
    offsets = [step for step in itertools.product((-2, 0, 2), repeat=3) if any(step)]
    for seed in FEW:
        deep = ndimage.binary_erosion(brain(seed), iterations=2)
        for channel in image(seed).astype(float):
            neighbours = np.stack(
                [np.roll(channel, step, (0, 1, 2))[deep] for step in offsets] + [np.ones(deep.sum())], 1
            )
            fit = neighbours @ np.linalg.lstsq(neighbours, channel[deep], rcond=None)[0]
            assert 1 - np.var(channel[deep] - fit) / np.var(channel[deep]) > 0.2


def test_sequences_can_be_predicted_from_each_other() -> None:
    for seed in FEW:
        t1, t1ce, t2, _ = (channel[ndimage.binary_erosion(brain(seed))] for channel in image(seed))
        assert np.corrcoef(t1, t1ce)[0, 1] > 0.7
        assert np.corrcoef(t1, t2)[0, 1] < -0.6


def test_every_scan_has_its_own_intensity_scale() -> None:
    middles = np.array([[np.median(channel[brain(seed)]) for channel in image(seed)] for seed in SEEDS])
    assert np.all(middles.max(axis=0) > 5 * middles.min(axis=0))
    assert np.abs(np.corrcoef(np.log(middles), rowvar=False) - np.eye(len(SEQUENCES))).max() < 0.6


def test_a_cohort_of_heads_is_a_source_with_four_channels(tmp_path: Path) -> None:
    write_cohort(tmp_path / "heads", 4, seed=0, kind="head")
    assert list(json.loads((tmp_path / "heads" / "dataset.json").read_text())["regions"]) == ["WT", "TC", "ET"]
    source = open_source(tmp_path / "heads")
    assert source.channels == SEQUENCES
    assert source.labels == LABELS
    assert list(source.regions.items()) == [("WT", (1, 2, 3)), ("TC", (1, 3)), ("ET", (3,))]
    assert sorted(each.split for each in source.cases) == ["test", "train", "train", "val"]
    classes = dict(line.split(",") for line in (tmp_path / "heads" / "classes.csv").read_text().splitlines()[1:])
    assert classes == {f"phantom_{i:03d}": "tumour" if labels(i).any() else "healthy" for i in range(4)}
    for index, each in enumerate(source.cases):
        read = read_volume(each.images[0], len(source.channels))
        assert np.array_equal(read.array, image(index))
        assert np.allclose(read.affine, case(index)[0].affine, atol=1e-3)
        assert each.label is not None
        assert np.array_equal(read_volume(each.label).array[0], labels(index))


def test_a_head_is_prepared_as_mr_and_cropped_to_the_brain(tmp_path: Path) -> None:
    write_cohort(tmp_path / "heads", 4, seed=0, kind="head")
    source = open_source(tmp_path / "heads")
    kind = guess_intensity([measure(case(index)[0]) for index in range(4)], source.channels)
    scan = prepare_scan(source.cases[0].images, Preparation((3.8, 3.8, 3.8), kind, source.channels))
    assert kind == "mr"
    box = ndimage.find_objects(brain(0).astype(int))[0]
    assert scan.image.shape == (4, *(side.stop - side.start + 4 for side in box))  # a margin of two voxels
    inside = scan.image[:, 2:-2, 2:-2, 2:-2][:, np.flip(brain(0)[box], (0, 1))].astype(float)
    assert np.allclose(inside.mean(axis=1), 0, atol=0.05)
    assert np.allclose(inside.std(axis=1), 1, atol=0.1)
