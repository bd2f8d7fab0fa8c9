"""Augmentation is determined by the seed of a crop, moves labels with the image and is isotropic in mm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional

from augmentations import EVERYTHING, FIRST_VERSION, NOTHING, SPACING, identity, some_batch
from voxmim.store.augment import apply, draw
from voxmim.store.crops import Batch


def moments(image: torch.Tensor, spacing: tuple[float, float, float]) -> tuple[float, np.ndarray, np.ndarray]:
    """Mass, centre and covariance in mm of an image (X, Y, Z), relative to the middle of the crop."""
    middles = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(image.shape, spacing, strict=True)]
    position = np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1).reshape(-1, 3)
    weight = image.double().numpy().ravel()
    centre = weight @ position / weight.sum()
    covariance = np.einsum("n,ni,nj->ij", weight, position - centre, position - centre) / weight.sum()
    return float(weight.sum() * np.prod(spacing)), centre, covariance


def blob(centre: tuple[float, float, float], std: float, size: tuple[int, int, int]) -> Batch:
    """A batch of one Gaussian blob that is isotropic in mm."""
    distance = (positions(size) - torch.tensor(centre).reshape(3, 1, 1, 1)).square().sum(0)
    image, present = torch.exp(-distance / (2 * std**2))[None, None], torch.ones(1, 1, dtype=torch.bool)
    return Batch(image, torch.zeros(1, 1, 0, 0, 0), torch.zeros(1), ["a"], present)


def test_the_same_seeds_give_the_same_crops() -> None:
    batch = some_batch()
    one, two = (apply(batch, draw(EVERYTHING, batch.seed), SPACING) for _ in range(2))
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.label, two.label)
    assert not torch.equal(one.image, batch.image)
    other = apply(batch, draw(EVERYTHING, batch.seed + 50), SPACING)
    assert not torch.equal(one.image, other.image)


@pytest.mark.parametrize("first_seed", [0, 100, 2**61])
def test_a_crop_is_augmented_equally_in_any_batch(first_seed: int) -> None:
    batch = some_batch(crops=8, first_seed=first_seed)
    together = apply(batch, draw(EVERYTHING, batch.seed), SPACING)
    for i in range(8):
        alone = Batch(*(column[i : i + 1] for column in batch))
        changed = apply(alone, draw(EVERYTHING, alone.seed), SPACING)
        torch.testing.assert_close(changed.image[0], together.image[i], atol=1e-6, rtol=0)
        assert torch.equal(changed.label[0], together.label[i])


def test_probabilities_of_zero_change_nothing() -> None:
    batch = some_batch()
    same = apply(batch, draw(NOTHING, batch.seed), SPACING)
    assert torch.equal(same.image, batch.image)
    assert torch.equal(same.label, batch.label)
    assert torch.equal(same.seed, batch.seed)
    assert same.names == batch.names


@given(axes=st.tuples(st.booleans(), st.booleans(), st.booleans()), turns=st.integers(0, 3))
@settings(max_examples=32, deadline=None)
def test_flips_and_quarter_turns_are_exact(axes: tuple[bool, bool, bool], turns: int) -> None:
    batch = some_batch(crops=2)
    parameters = identity(2)
    parameters.flip[1], parameters.turns[1] = torch.tensor(axes), turns
    augmented = apply(batch, parameters, SPACING)
    chosen = [axis for axis in range(3) if axes[axis]]
    for before, after in ((batch.image, augmented.image), (batch.label, augmented.label)):
        expected = np.rot90(np.flip(before[1].numpy(), [axis + 1 for axis in chosen]), turns, axes=(1, 2))
        np.testing.assert_array_equal(after[1].numpy(), expected)
        assert torch.equal(after[0], before[0])


def test_a_crop_that_is_not_square_is_not_rotated_by_90_degrees() -> None:
    batch = some_batch((10, 8, 8), crops=2)
    parameters = replace(identity(2), turns=torch.tensor([1, 3]))
    assert torch.equal(apply(batch, parameters, SPACING).image, batch.image)


@pytest.mark.parametrize("seed", range(4))
def test_labels_move_with_the_image(seed: int) -> None:
    """An image made from the label map still agrees with it after every geometric augmentation.

    The voxel nearest to a sampled point has a weight of at least 1/8 in the linear interpolation, so that a label can
    differ from the image only where the image is between 1/8 and 7/8.
    """
    label = (some_batch((6, 6, 5)).label > 0).long().repeat_interleave(3, 2).repeat_interleave(3, 3)
    batch = some_batch((18, 18, 5), first_seed=10 * seed)._replace(image=label.float(), label=label)
    geometry = replace(EVERYTHING, affine=1.0, displace=2.0, intensity=0.0)
    changed = apply(batch, draw(geometry, batch.seed), SPACING)
    assert not torch.equal(changed.label, label)
    inside, outside = changed.image > 0.88, changed.image < 0.12
    assert inside.float().mean() > 0.15
    assert outside.float().mean() > 0.03
    assert (changed.label[inside] == 1).all()
    assert (changed.label[outside] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_round_blob_stays_round_in_mm_and_moves_as_the_matrix_says(seed: int) -> None:
    size, centre = (40, 28, 18), (6.0, -4.0, 5.0)
    batch = blob(centre, 4.0, size)
    drawn = draw(replace(NOTHING, affine=1.0, rotate=40.0, scale=0.0), torch.tensor([seed]))
    augmented = apply(batch, drawn, SPACING)
    mass, moved, covariance = moments(augmented.image[0, 0], SPACING)
    mass_before, _, covariance_before = moments(batch.image[0, 0], SPACING)
    matrix = drawn.matrix[0].double().numpy()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(moved, np.linalg.inv(matrix) @ centre, atol=0.15)
    assert np.linalg.norm(moved - centre) > 0.5
    np.testing.assert_allclose(covariance, covariance_before, atol=1.6)  # of 16; interpolation blurs a little
    assert mass == pytest.approx(mass_before, rel=0.03)


def test_scaling_changes_the_size_and_not_the_centre() -> None:
    batch = blob((0.0, 0.0, 0.0), 4.0, (40, 28, 18))
    parameters = replace(identity(1), matrix=1.25 * torch.eye(3)[None])
    mass, centre, _ = moments(apply(batch, parameters, SPACING).image[0, 0], SPACING)
    mass_before, _, _ = moments(batch.image[0, 0], SPACING)
    assert mass == pytest.approx(mass_before / 1.25**3, rel=0.05)
    np.testing.assert_allclose(centre, 0, atol=1e-3)


def test_intensities_change_as_specified_and_labels_do_not() -> None:
    batch = some_batch(crops=3)
    parameters = replace(
        identity(3),
        shift=torch.tensor([0.2, -0.1, 0.0]),
        contrast=torch.tensor([1.5, 1.0, 0.5]),
        noise=torch.tensor([0.0, 0.0, 0.3]),
    )
    augmented = apply(batch, parameters, SPACING)
    mean = batch.image[0].mean()
    torch.testing.assert_close(augmented.image[0], (batch.image[0] - mean) * 1.5 + mean + 0.2)
    torch.testing.assert_close(augmented.image[1], batch.image[1] - 0.1)
    mean = batch.image[2].mean()
    noise = augmented.image[2] - ((batch.image[2] - mean) * 0.5 + mean)
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(augmented.label, batch.label)
    drawn = apply(
        batch, draw(replace(EVERYTHING, flip=0, rot90=0, affine=0, elastic=0, intensity=1.0), batch.seed), SPACING
    )
    assert torch.equal(drawn.label, batch.label)
    assert not torch.equal(drawn.image, batch.image)


def test_empty_labels_stay_empty() -> None:
    batch = some_batch()._replace(label=torch.zeros(4, 1, 0, 0, 0, dtype=torch.int64))
    assert apply(batch, draw(EVERYTHING, batch.seed), SPACING).label.shape == (4, 1, 0, 0, 0)


def test_draws_have_the_specified_probabilities_and_bounds() -> None:
    drawn = draw(EVERYTHING, torch.arange(600))
    tolerance = 0.06  # three standard deviations of 600 draws
    for axis in range(3):
        assert drawn.flip[:, axis].float().mean() == pytest.approx(0.5, abs=tolerance)
    assert (drawn.turns > 0).float().mean() == pytest.approx(0.5, abs=tolerance)
    assert set(drawn.turns.tolist()) == {0, 1, 2, 3}
    moved = [not torch.equal(matrix, torch.eye(3)) for matrix in drawn.matrix]
    assert np.mean(moved) == pytest.approx(0.7, abs=tolerance)
    scale = torch.linalg.det(drawn.matrix) ** (1 / 3)
    assert 0.79 < scale.min() < 0.85
    assert 1.15 < scale.max() < 1.21
    assert (drawn.elastic > 0).float().mean() == pytest.approx(0.6, abs=tolerance)
    assert 3.9 < drawn.elastic.max() <= 4
    intensities = [
        ("shift", 0, 0.3),
        ("contrast", 1, 0.3),
        ("noise", 0, 0.2),
        ("blur", 0, 2),
        ("low_resolution", 1, 1.5),
    ]
    for name, middle, reach in [*intensities, ("gamma", 1, 0.5)]:
        values = getattr(drawn, name)
        assert (values != middle).float().mean() == pytest.approx(0.7, abs=tolerance)
        assert 0.9 * reach < (values - middle).abs().max() <= reach + 1e-6
    assert (drawn.noise.min(), drawn.blur.min(), drawn.low_resolution.min()) == (0, 0, 1)
    assert 1 / 1.5 < drawn.gamma.min() < 0.7


@pytest.mark.parametrize("changed", ["flip", "rot90", "affine", "elastic", "intensity"])
def test_changing_one_probability_does_not_change_the_other_draws(changed: str) -> None:
    one, other = (draw(replace(EVERYTHING, **{changed: chance}), torch.arange(50)) for chance in (0.0, 1.0))
    intensities = ["shift", "contrast", "noise", "gamma", "blur", "low_resolution"]
    belongs = {"flip": ["flip"], "rot90": ["turns"], "affine": ["matrix"], "elastic": ["elastic"]}
    for name in ("flip", "turns", "matrix", "elastic", *intensities):
        moved = name in {**belongs, "intensity": intensities}[changed]
        assert torch.equal(getattr(one, name), getattr(other, name)) == (not moved)


def test_augmentations_of_the_first_version_are_unchanged() -> None:
    """Recorded values of the first version, so that old recipes give the same crops."""
    batch = some_batch(crops=4, first_seed=40)
    drawn = draw(FIRST_VERSION, batch.seed)
    assert drawn.flip.int().tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert drawn.turns.tolist() == [0, 2, 0, 3]
    close = {"rtol": 0, "atol": 1e-6}
    rows = [[1.0, 0.0, 0.0], [1.061762333, -0.048245572, 0.175904393], [0.86392796, -0.563815236, -0.109571062],
            [0.758244395, -0.340537846, 0.193870559]]  # fmt: skip
    torch.testing.assert_close(drawn.matrix[:, 0], torch.tensor(rows), **close)
    torch.testing.assert_close(drawn.shift, torch.tensor([0.154967844, 0.0, 0.221642673, 0.011457182]), **close)
    torch.testing.assert_close(
        drawn.contrast, torch.tensor([1.233745933, 1.02440536, 1.040629148, 1.020119786]), **close
    )
    torch.testing.assert_close(drawn.noise, torch.tensor([0.078370452, 0.0, 0.0, 0.01501062]), **close)
    augmented = apply(batch, drawn, SPACING)
    voxels = [[0.461948365, 0.72705704], [0.297385365, 0.283274353], [0.697464943, 0.81], [0.620610237, 0.535654724]]
    torch.testing.assert_close(augmented.image[:, :, 2, 7, 3], torch.tensor(voxels), **close)
    std = torch.tensor([0.37033847, 0.171988517, 0.182070374, 0.17117323])
    torch.testing.assert_close(augmented.image.flatten(1).std(1), std, **close)
    code = torch.arange(800) % 97
    assert [int((label.flatten() * code).sum()) for label in augmented.label] == [38341, 37416, 39386, 38387]


@given(seed=st.integers(0, 2**62), size=st.tuples(*[st.integers(5, 12)] * 3))
@settings(max_examples=20)
def test_augmentation_adds_no_label_values_and_does_not_depend_on_the_batch(
    seed: int, size: tuple[int, int, int]
) -> None:
    batch = some_batch(size, first_seed=seed)
    batch.label[:] *= 7
    together = apply(batch, draw(EVERYTHING, batch.seed), SPACING)
    alone = apply(
        Batch(batch.image[2:3], batch.label[2:3], batch.seed[2:3], ["a"], batch.present[2:3]),
        draw(EVERYTHING, batch.seed[2:3]),
        SPACING,
    )
    assert set(together.label.unique().tolist()) <= {0, 7, 14}
    assert together.label.dtype == torch.int64
    assert torch.isfinite(together.image).all()
    torch.testing.assert_close(alone.image[0], together.image[2], atol=1e-6, rtol=0)
    assert torch.equal(alone.label[0], together.label[2])


def test_the_input_batch_is_not_changed() -> None:
    batch, same = some_batch(), some_batch()
    apply(batch, draw(EVERYTHING, batch.seed), SPACING)
    assert torch.equal(batch.image, same.image)
    assert torch.equal(batch.label, same.label)


@given(axes=st.lists(st.booleans(), min_size=12, max_size=12))
@settings(max_examples=20)
def test_flipping_twice_changes_nothing(axes: list[bool]) -> None:
    batch = some_batch()
    parameters = replace(identity(4), flip=torch.tensor(axes).reshape(4, 3))
    twice = apply(apply(batch, parameters, SPACING), parameters, SPACING)
    assert torch.equal(twice.image, batch.image)
    assert torch.equal(twice.label, batch.label)


def positions(size: tuple[int, int, int]) -> torch.Tensor:
    """(3, X, Y, Z) position of each voxel in mm from the middle of the crop."""
    middles = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(size, SPACING, strict=True)]
    return torch.stack(torch.meshgrid(*middles, indexing="ij"))


@pytest.mark.parametrize("seed", range(3))
def test_rotation_and_scaling_agree_with_scipy(seed: int) -> None:
    batch = some_batch((17, 14, 11), crops=1)
    smooth = ndimage.gaussian_filter(batch.image[0, 0].numpy(), 1.5)
    label = batch.label[0, 0].numpy()
    batch = batch._replace(image=torch.from_numpy(smooth)[None, None], seed=torch.tensor([seed]))
    drawn = draw(replace(NOTHING, affine=1.0, rotate=30.0, scale=0.2), batch.seed)
    augmented = apply(batch, drawn, SPACING)
    spacing, middle = np.array(SPACING), (np.array(smooth.shape) - 1) / 2
    matrix = np.diag(1 / spacing) @ drawn.matrix[0].double().numpy() @ np.diag(spacing)
    how = {"offset": middle - matrix @ middle, "mode": "nearest"}
    expected = ndimage.affine_transform(smooth, matrix, order=1, **how)
    np.testing.assert_allclose(augmented.image[0, 0].numpy(), expected, atol=1e-5)
    nearest = ndimage.affine_transform(label, matrix, order=0, **how)
    assert (augmented.label[0, 0].numpy() == nearest).mean() > 0.999  # ties may be rounded differently


@given(seed=st.integers(0, 2**62), reach=st.floats(0.5, 6.0), control=st.floats(15.0, 40.0))
@settings(max_examples=20)
def test_displacements_are_bounded_and_smooth(seed: int, reach: float, control: float) -> None:
    """An image of voxel positions shows from where each voxel was sampled."""
    position = positions((24, 18, 12))
    batch = Batch(
        position[None],
        torch.zeros(1, 1, 0, 0, 0),
        torch.tensor([seed]),
        ["a"],
        torch.ones(1, len(position), dtype=torch.bool),
    )
    parameters = replace(identity(1), seed=batch.seed, elastic=torch.tensor([reach]), control=control)
    moved = apply(batch, parameters, SPACING).image[0] - position
    assert moved.abs().amax() <= reach + 1e-4
    assert moved.abs().amax() > reach / 50
    inside = moved[:, 7:-7, 5:-5, 3:-3]  # not influenced by the edge
    for axis, spacing in enumerate(SPACING):
        slope = inside.diff(dim=axis + 1) / spacing
        assert slope.abs().amax() <= 2 * reach / control + 1e-4  # the maximum slope of such a spline


def test_a_deformation_in_mm_does_not_depend_on_the_voxel_size() -> None:
    fine = positions((24, 18, 12))
    spacing = (*SPACING[:2], 2 * SPACING[2])
    coarse = (fine[..., ::2] + fine[..., 1::2]) / 2
    parameters = replace(identity(1), elastic=torch.tensor([4.0]), control=20.0)
    moved = []
    for position, size in ((fine, SPACING), (coarse, spacing)):
        present = torch.ones(1, len(position), dtype=torch.bool)
        batch = Batch(position[None], torch.zeros(1, 1, 0, 0, 0), torch.zeros(1), ["a"], present)
        moved.append(apply(batch, parameters, size).image[0] - position)
    between = (moved[0][..., ::2] + moved[0][..., 1::2]) / 2
    torch.testing.assert_close(between[:, 4:-4, 4:-4, 2:-2], moved[1][:, 4:-4, 4:-4, 2:-2], atol=0.1, rtol=0)
    assert moved[1].abs().amax() > 0.5


def test_displacements_have_the_same_size_along_each_axis() -> None:
    position, crops = positions((40, 10, 4)), 100
    batch = Batch(
        position.repeat(crops, 1, 1, 1, 1),
        torch.zeros(crops, 1, 0, 0, 0),
        torch.arange(crops),
        ["a"] * crops,
        torch.ones(crops, len(position), dtype=torch.bool),
    )
    parameters = replace(identity(crops), seed=3 * batch.seed, elastic=torch.full((crops,), 2.0), control=12.0)
    moved = (apply(batch, parameters, SPACING).image - position)[:, :, 18:22, 4:6, 1:3]
    rms = moved.square().mean(dim=(0, 2, 3, 4)).sqrt()
    assert rms.max() < 1.3 * rms.min()


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5])
def test_blur_agrees_with_scipy(sigma: float) -> None:
    batch = some_batch((12, 10, 9), crops=2)
    augmented = apply(batch, replace(identity(2), blur=torch.tensor([0.0, sigma])), SPACING)
    assert torch.equal(augmented.image[0], batch.image[0])
    for channel in range(2):
        voxels = batch.image[1, channel].numpy()
        expected = ndimage.gaussian_filter(voxels, [sigma / s for s in SPACING], mode="nearest", truncate=4.0)
        np.testing.assert_allclose(augmented.image[1, channel].numpy(), expected, atol=1e-6)


@given(size=st.tuples(*[st.integers(1, 12)] * 3), growth=st.floats(1.0, 4.0))
@settings(max_examples=20)
def test_low_resolution_is_the_mean_over_larger_voxels(size: tuple[int, int, int], growth: float) -> None:
    batch = some_batch(size, crops=2)
    augmented = apply(batch, replace(identity(2), low_resolution=torch.tensor([growth, 1.0])), SPACING)
    few = [max(1, round(n / float(torch.tensor(growth)))) for n in size]
    small = functional.adaptive_avg_pool3d(batch.image[:1], few)
    expected = functional.interpolate(small, size=size, mode="trilinear", align_corners=False)
    torch.testing.assert_close(augmented.image[:1], expected, atol=1e-6, rtol=0)
    assert torch.equal(augmented.image[1], batch.image[1])


@pytest.mark.parametrize("gamma", [0.6, 1.7])
def test_gamma_keeps_the_range_of_each_channel(gamma: float) -> None:
    batch = some_batch(crops=2)
    batch.image[1, 0] = batch.image[1, 0] * 5 - 3
    batch.image[1, 1] = -2.5  # like a missing channel
    augmented = apply(batch, replace(identity(2), gamma=torch.tensor([1.0, gamma])), SPACING).image
    assert torch.equal(augmented[0], batch.image[0])
    assert torch.equal(augmented[1, 1], batch.image[1, 1])
    before, after = batch.image[1, 0].double(), augmented[1, 0].double()
    low, high = before.min(), before.max()
    torch.testing.assert_close(after, ((before - low) / (high - low)) ** gamma * (high - low) + low, atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_crops() -> None:
    batch = some_batch((24, 24, 16), crops=8)
    drawn = draw(EVERYTHING, batch.seed)
    on_cpu = apply(batch, drawn, SPACING)
    on_gpu = apply(batch._replace(image=batch.image.cuda(), label=batch.label.cuda()), drawn, SPACING)
    torch.testing.assert_close(on_gpu.image.cpu(), on_cpu.image, atol=1e-4, rtol=0)
    assert (on_gpu.label.cpu() == on_cpu.label).float().mean() > 0.999  # ties may be rounded differently
