from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from scipy import ndimage

from voxmim.images.volume import Volume
from voxmim.phantoms.trunk import LABELS, contrast_phase, draw_trunk

VALUE = {name: value for value, name in LABELS.items()}
SEEDS = range(20, 32)


@functools.cache
def case(seed: int) -> tuple[Volume, Volume]:
    return draw_trunk(seed)


def ras(volume: Volume) -> np.ndarray:
    """(X, Y, Z) reoriented to RAS; phantoms are flipped but not rotated."""
    assert np.count_nonzero(volume.affine[:3, :3]) == 3
    return np.flip(volume.array[0], [axis for axis in range(3) if volume.affine[axis, axis] < 0])


def places(labels: Volume, name: str) -> np.ndarray:
    """(N, 3) world coordinates of a label's voxels in mm."""
    index = np.argwhere(labels.array[0] == VALUE[name])
    return index @ labels.affine[:3, :3].T + labels.affine[:3, 3]


def test_the_same_seed_gives_the_same_case() -> None:
    for first, again in zip(case(20), draw_trunk(20), strict=True):
        assert np.array_equal(first.array, again.array)
        assert np.array_equal(first.affine, again.affine)


def test_different_seeds_give_different_cases() -> None:
    labels = [case(seed)[1] for seed in SEEDS]
    spleens = {float(np.sum(each.array == VALUE["spleen"]) * each.spacing.prod()) for each in labels}
    assert len(spleens) == len(SEEDS)
    assert max(spleens) > 1.5 * min(spleens)
    assert len({case(seed)[0].shape for seed in SEEDS}) > len(SEEDS) // 2


def test_consecutive_seeds_differ_in_orientation() -> None:
    signs = [tuple(np.sign(np.diag(case(seed)[0].affine)[:3])) for seed in SEEDS]
    assert all(a != b for a, b in itertools.pairwise(signs))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_case_has_the_documented_types_sizes_and_geometry(seed: int) -> None:
    image, labels = case(seed)
    assert image.array.dtype == np.int16
    assert labels.array.dtype == np.uint8
    assert image.array.shape == labels.array.shape
    assert np.array_equal(image.affine, labels.affine)
    assert all(45 <= n <= 90 for n in image.shape)
    assert np.all((image.spacing > 3.9) & (image.spacing < 6.1))


def test_nearly_every_case_has_every_label() -> None:
    whole = [set(np.unique(case(seed)[1].array)) == {0, *LABELS} for seed in SEEDS]
    assert np.mean(whole) >= 0.8


@pytest.mark.parametrize("seed", SEEDS)
def test_tissues_have_realistic_hounsfield_units(seed: int) -> None:
    image, labels = (ras(volume) for volume in case(seed))
    corner = image[:3, -3:, :]
    assert abs(np.median(corner) + 1000) < 15
    assert 5 < np.median(image[ndimage.binary_erosion(labels == VALUE["liver"])]) < 170
    assert 70 < np.median(image[labels == VALUE["spine"]]) < 420
    body = np.stack([ndimage.binary_fill_holes(image[..., z] > -400) for z in range(image.shape[2])], axis=2)
    lung = ndimage.binary_erosion(body, iterations=2) & (image < -600)
    assert lung.sum() > 0.03 * body.sum()
    assert -960 < np.median(image[lung]) < -700


def test_noise_differs_from_case_to_case() -> None:
    noise = []
    for seed in SEEDS:
        image, labels = (ras(volume) for volume in case(seed))
        liver = ndimage.binary_erosion(labels == VALUE["liver"], iterations=2)
        noise.append(float(np.std((image - ndimage.uniform_filter(image.astype(float), 3))[liver])))
    assert 3 < min(noise) < 0.7 * max(noise) < 40


@pytest.mark.parametrize("seed", SEEDS)
def test_organs_have_realistic_relative_positions(seed: int) -> None:
    labels = case(seed)[1]
    middle = {name: places(labels, name).mean(0) for name in VALUE}
    right, front, up = 0, 1, 2
    assert middle["liver"][right] > middle["spine"][right] > middle["spleen"][right]
    assert middle["right kidney"][right] > middle["spine"][right] + 25
    assert middle["left kidney"][right] < middle["spine"][right] - 25
    assert middle["aorta"][right] < middle["spine"][right] + 5
    assert middle["aorta"][front] > middle["spine"][front] + 10
    assert middle["liver"][front] > middle["right kidney"][front]
    assert middle["liver"][up] > middle["right kidney"][up]
    assert middle["spleen"][up] > middle["left kidney"][up]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_liver_is_below_the_right_lung(seed: int) -> None:
    image, labels = (ras(volume) for volume in case(seed))
    liver = np.argwhere(labels == VALUE["liver"])
    x, y, z = liver[liver[:, 2].argmax()]
    assert image[x, y, z + 2 : z + 5].min() < -400


def test_vertebrae_repeat_along_the_spine() -> None:
    """The cross-section of the spine is periodic in the height of a vertebra with its disc."""
    for seed in SEEDS:
        labels = case(seed)[1]
        area = np.sum(ras(labels) == VALUE["spine"], axis=(0, 1))
        waves = (area - ndimage.gaussian_filter1d(area.astype(float), 4))[2:-2]
        power = np.abs(np.fft.rfft(waves * np.hanning(len(waves)), 1024))
        period = labels.spacing[2] * 1024 / power.argmax()
        assert 20 < period < 42


def position_only_dice(train: list[int], test: list[int]) -> float:
    """Mean Dice of the mean training label map in each body's bounding box, at the best threshold of each label."""

    def boxed(seed: int) -> np.ndarray:
        image, labels = (ras(volume) for volume in case(seed))
        body = ndimage.binary_opening(image > -400).astype(np.uint8)
        box = labels[ndimage.find_objects(body)[0]]
        grid = [
            np.linspace(0, n - 1, size).round().astype(int) for n, size in zip(box.shape, (48, 40, 48), strict=True)
        ]
        return np.stack([box[np.ix_(*grid)] == value for value in LABELS])

    def dice(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
        axes = (1, 2, 3)
        return 2 * (prediction & truth).sum(axes) / np.maximum(prediction.sum(axes) + truth.sum(axes), 1)

    known = [boxed(seed) for seed in train]
    mean = np.mean(known, axis=0)
    thresholds = np.arange(0.15, 0.6, 0.05)
    best = thresholds[np.mean([[dice(mean > t, truth) for t in thresholds] for truth in known], axis=0).argmax(0)]
    return float(np.mean([dice(mean > best[:, None, None, None], boxed(seed)) for seed in test]))


def test_position_alone_does_not_predict_the_organs() -> None:
    assert 0.3 < position_only_dice(train=list(SEEDS)[:9], test=list(SEEDS)[9:]) < 0.6


def test_the_class_of_a_trunk_follows_from_the_contrast_of_its_aorta() -> None:
    phases = set()
    for seed in SEEDS:
        image, labels = case(seed)
        bright = np.median(image.array[labels.array == VALUE["aorta"]])
        assert contrast_phase(seed) == ("plain" if bright < 80 else "venous" if bright < 200 else "arterial"), seed
        phases.add(contrast_phase(seed))
    assert len(phases) == 3
