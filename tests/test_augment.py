"""Augmentation: replayed from a crop's seed, labels moving with the image, millimetres kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voxmim.augment import Parameters, apply, draw
from voxmim.crops import Batch
from voxmim.settings import Augmentation

EVERYTHING = Augmentation(
    flip=0.5, rot90=0.5, affine=0.7, rotate=30.0, scale=0.2, shift=0.3, contrast=0.3, noise=0.2, intensity=0.7
)
NOTHING = Augmentation(flip=0.0, rot90=0.0, affine=0.0, intensity=0.0)
SPACING = (1.0, 1.5, 2.5)


def some_batch(size: tuple[int, int, int] = (10, 10, 8), crops: int = 4, first_seed: int = 100) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(crops, 2, *size, generator=generator)
    label = torch.randint(0, 3, (crops, 1, *size), generator=generator)
    return Batch(image, label, torch.arange(first_seed, first_seed + crops), [f"case_{i}" for i in range(crops)])


def still(crops: int) -> Parameters:
    """Parameters that change nothing."""
    return draw(NOTHING, torch.arange(crops))


def moments(image: torch.Tensor, spacing: tuple[float, float, float]) -> tuple[float, np.ndarray, np.ndarray]:
    """Mass, centre and covariance in mm of an image (X, Y, Z), seen from the middle of the crop."""
    middles = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(image.shape, spacing, strict=True)]
    where = np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1).reshape(-1, 3)
    weight = image.double().numpy().ravel()
    centre = weight @ where / weight.sum()
    covariance = np.einsum("n,ni,nj->ij", weight, where - centre, where - centre) / weight.sum()
    return float(weight.sum() * np.prod(spacing)), centre, covariance


def blob(centre: tuple[float, float, float], spread: float, size: tuple[int, int, int]) -> Batch:
    """A batch of one smooth round blob, the same along all axes in mm."""
    middles = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(size, SPACING, strict=True)]
    where = torch.stack(torch.meshgrid(*middles, indexing="ij"))
    distance = (where - torch.tensor(centre).reshape(3, 1, 1, 1)).square().sum(0)
    return Batch(torch.exp(-distance / (2 * spread**2))[None, None], torch.zeros(1, 1, 0, 0, 0), torch.zeros(1), ["a"])


def test_the_same_seeds_give_the_same_crops() -> None:
    batch = some_batch()
    one, two = (apply(batch, draw(EVERYTHING, batch.seed), SPACING) for _ in range(2))
    assert torch.equal(one.image, two.image)
    assert torch.equal(one.label, two.label)
    assert not torch.equal(one.image, batch.image)
    other = apply(batch, draw(EVERYTHING, batch.seed + 50), SPACING)
    assert not torch.equal(one.image, other.image)


@pytest.mark.parametrize("first_seed", [0, 100, 2**61])
def test_a_crop_is_augmented_alike_in_any_batch(first_seed: int) -> None:
    batch = some_batch(crops=8, first_seed=first_seed)
    together = apply(batch, draw(EVERYTHING, batch.seed), SPACING)
    for i in range(8):
        alone = Batch(batch.image[i : i + 1], batch.label[i : i + 1], batch.seed[i : i + 1], batch.names[i : i + 1])
        changed = apply(alone, draw(EVERYTHING, alone.seed), SPACING)
        torch.testing.assert_close(changed.image[0], together.image[i], atol=1e-6, rtol=0)
        assert torch.equal(changed.label[0], together.label[i])


def test_no_chance_is_no_change() -> None:
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
    parameters = still(2)
    parameters.flip[1], parameters.turns[1] = torch.tensor(axes), turns
    found = apply(batch, parameters, SPACING)
    chosen = [axis for axis in range(3) if axes[axis]]
    for before, after in ((batch.image, found.image), (batch.label, found.label)):
        expected = np.rot90(np.flip(before[1].numpy(), [axis + 1 for axis in chosen]), turns, axes=(1, 2))
        np.testing.assert_array_equal(after[1].numpy(), expected)
        assert torch.equal(after[0], before[0])


def test_a_crop_that_is_not_square_is_not_turned() -> None:
    batch = some_batch((10, 8, 8), crops=2)
    parameters = replace(still(2), turns=torch.tensor([1, 3]))
    assert torch.equal(apply(batch, parameters, SPACING).image, batch.image)


@pytest.mark.parametrize("seed", range(4))
def test_labels_move_with_the_image(seed: int) -> None:
    """An image painted from the label map still shows it after every geometric change.

    The voxel nearest to a sampled point weighs at least an eighth in the linear interpolation, so that a label can
    differ from its picture only where the picture is between an eighth and seven eighths.
    """
    label = (some_batch((6, 6, 5)).label > 0).long().repeat_interleave(3, 2).repeat_interleave(3, 3)
    batch = some_batch((18, 18, 5), first_seed=10 * seed)._replace(image=label.float(), label=label)
    geometry = replace(EVERYTHING, affine=1.0, intensity=0.0)
    changed = apply(batch, draw(geometry, batch.seed), SPACING)
    assert not torch.equal(changed.label, label)
    inside, outside = changed.image > 0.88, changed.image < 0.12
    assert inside.float().mean() > 0.15
    assert outside.float().mean() > 0.03
    assert (changed.label[inside] == 1).all()
    assert (changed.label[outside] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_round_blob_stays_round_in_mm_and_goes_where_the_matrix_says(seed: int) -> None:
    size, centre = (40, 28, 18), (6.0, -4.0, 5.0)
    batch = blob(centre, 4.0, size)
    drawn = draw(replace(NOTHING, affine=1.0, rotate=40.0, scale=0.0), torch.tensor([seed]))
    found = apply(batch, drawn, SPACING)
    mass, place, spread = moments(found.image[0, 0], SPACING)
    mass_before, _, spread_before = moments(batch.image[0, 0], SPACING)
    matrix = drawn.matrix[0].double().numpy()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(place, np.linalg.inv(matrix) @ centre, atol=0.15)
    assert np.linalg.norm(place - centre) > 0.5  # it did move
    np.testing.assert_allclose(spread, spread_before, atol=1.6)  # of 16; interpolation blurs a little
    assert mass == pytest.approx(mass_before, rel=0.03)


def test_scaling_changes_the_size_and_not_the_middle() -> None:
    batch = blob((0.0, 0.0, 0.0), 4.0, (40, 28, 18))
    parameters = replace(still(1), matrix=1.25 * torch.eye(3)[None])
    mass, place, _ = moments(apply(batch, parameters, SPACING).image[0, 0], SPACING)
    mass_before, _, _ = moments(batch.image[0, 0], SPACING)
    assert mass == pytest.approx(mass_before / 1.25**3, rel=0.05)
    np.testing.assert_allclose(place, 0, atol=1e-3)


def test_intensities_change_as_told_and_labels_do_not() -> None:
    batch = some_batch(crops=3)
    parameters = replace(
        still(3),
        shift=torch.tensor([0.2, -0.1, 0.0]),
        contrast=torch.tensor([1.5, 1.0, 0.5]),
        noise=torch.tensor([0.0, 0.0, 0.3]),
    )
    found = apply(batch, parameters, SPACING)
    mean = batch.image[0].mean()
    torch.testing.assert_close(found.image[0], (batch.image[0] - mean) * 1.5 + mean + 0.2)
    torch.testing.assert_close(found.image[1], batch.image[1] - 0.1)
    mean = batch.image[2].mean()
    noise = found.image[2] - ((batch.image[2] - mean) * 0.5 + mean)
    assert abs(noise.mean()) < 0.03
    assert noise.std() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(found.label, batch.label)
    drawn = apply(batch, draw(replace(EVERYTHING, flip=0, rot90=0, affine=0, intensity=1.0), batch.seed), SPACING)
    assert torch.equal(drawn.label, batch.label)
    assert not torch.equal(drawn.image, batch.image)


def test_empty_labels_pass_through() -> None:
    batch = some_batch()._replace(label=torch.zeros(4, 1, 0, 0, 0, dtype=torch.int64))
    assert apply(batch, draw(EVERYTHING, batch.seed), SPACING).label.shape == (4, 1, 0, 0, 0)


def test_draws_keep_their_chances_and_bounds() -> None:
    drawn = draw(EVERYTHING, torch.arange(600))
    share = 0.06  # three standard deviations of 600 draws
    for axis in range(3):
        assert drawn.flip[:, axis].float().mean() == pytest.approx(0.5, abs=share)
    assert (drawn.turns > 0).float().mean() == pytest.approx(0.5, abs=share)
    assert set(drawn.turns.tolist()) == {0, 1, 2, 3}
    moved = [not torch.equal(matrix, torch.eye(3)) for matrix in drawn.matrix]
    assert np.mean(moved) == pytest.approx(0.7, abs=share)
    scale = torch.linalg.det(drawn.matrix) ** (1 / 3)
    assert 0.79 < scale.min() < 0.85
    assert 1.15 < scale.max() < 1.21
    for values, middle, reach in ((drawn.shift, 0.0, 0.3), (drawn.contrast, 1.0, 0.3), (drawn.noise, 0.0, 0.2)):
        assert (values != middle).float().mean() == pytest.approx(0.7, abs=share)
        assert 0.9 * reach < (values - middle).abs().max() <= reach + 1e-6
    assert drawn.noise.min() == 0


@pytest.mark.parametrize("changed", ["flip", "rot90", "affine", "intensity"])
def test_one_chance_does_not_shift_the_draws_of_the_others(changed: str) -> None:
    one, other = (draw(replace(EVERYTHING, **{changed: chance}), torch.arange(50)) for chance in (0.0, 1.0))
    belongs = {"flip": ["flip"], "rot90": ["turns"], "affine": ["matrix"], "intensity": ["shift", "contrast", "noise"]}
    for name in ("flip", "turns", "matrix", "shift", "contrast", "noise"):
        assert torch.equal(getattr(one, name), getattr(other, name)) == (name not in belongs[changed])
