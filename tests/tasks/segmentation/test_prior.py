from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voxmim.errors import RunError
from voxmim.tasks.segmentation import prior as prior_module
from voxmim.tasks.segmentation.prior import PositionPrior

LABELS = {0: "background", 2: "liver", 7: "spleen"}


def quarters(shape: tuple[int, int, int]) -> np.ndarray:
    """Liver in the lower half of X and the upper half of Z, spleen in the quarter of Y at the high end of X."""
    label_map = np.zeros(shape, np.uint8)
    label_map[: shape[0] // 2, :, shape[2] // 2 :] = 2
    label_map[shape[0] // 2 :, : shape[1] // 4] = 7
    return label_map


def shifted_organs(cases: int, seed: int = 0) -> list[np.ndarray]:
    """A small organ at a slightly different position in each case, so that no voxel has it in half of the cases."""
    rng = np.random.default_rng(seed)
    label_maps = []
    for x, y, z in rng.integers(4, 10, size=(cases, 3)):
        label_map = np.zeros((16, 16, 16), np.uint8)
        label_map[x : x + 3, y : y + 3, z : z + 3] = 2
        label_maps.append(label_map)
    return label_maps


def dice(a: np.ndarray, b: np.ndarray, value: int) -> float:
    return 2 * np.sum((a == value) & (b == value)) / (np.sum(a == value) + np.sum(b == value))


def test_the_prior_is_the_mean_of_the_masks():
    rng = np.random.default_rng(0)
    label_maps = [rng.choice([0, 2, 7], size=(6, 6, 6)).astype(np.uint8) for _ in range(7)]
    prior = PositionPrior.fit(iter(label_maps), LABELS, grid=6)
    assert prior.labels == (2, 7)
    for probability, value in zip(prior.probability, prior.labels, strict=True):
        np.testing.assert_allclose(probability, np.mean([m == value for m in label_maps], axis=0), atol=1e-3)


@pytest.mark.parametrize("cases", [1, 2, 7])
def test_equal_label_maps_are_predicted_exactly(cases):
    label_map = np.random.default_rng(1).choice([0, 2, 7], size=(8, 8, 8)).astype(np.uint8)
    prior = PositionPrior.fit([label_map] * cases, LABELS, grid=8)
    assert prior.factor == 1.0
    predicted = prior.predict((8, 8, 8))
    assert predicted.dtype == np.uint8
    np.testing.assert_array_equal(predicted, label_map)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([8, 12, 20, 36, 44])] * 3), min_size=1, max_size=4))
def test_positions_are_relative_to_the_box_for_any_shape(shapes):
    *training, shape = shapes
    prior = PositionPrior.fit([quarters(s) for s in training or shapes], LABELS, grid=16)
    predicted = prior.predict(shape)
    assert predicted.shape == shape
    # Only voxels next to a border between labels may differ.
    assert dice(predicted, quarters(shape), 2) > 0.8
    assert dice(predicted, quarters(shape), 7) > 0.6


def test_fine_label_maps_are_averaged_not_sampled():
    label_map = np.zeros((32, 32, 32), np.uint8)
    label_map[::4] = 2  # a quarter of every grid cell
    prior = PositionPrior.fit([label_map], [2], grid=8)
    np.testing.assert_allclose(prior.probability, 0.25, atol=1e-3)


def test_an_organ_at_varying_positions_is_predicted():
    training, test = shifted_organs(40), shifted_organs(20, seed=1)
    prior = PositionPrior.fit(training, [2], grid=16)
    assert prior.probability.max() < 0.5
    assert prior.factor > 1
    predicted = prior.predict((16, 16, 16))
    assert np.mean([dice(predicted, label_map, 2) for label_map in test]) > 0.1
    most_frequent = PositionPrior(prior.probability, prior.labels, factor=1.0)
    assert not most_frequent.predict((16, 16, 16)).any()


def test_the_factor_has_the_highest_dice_on_left_out_cases():
    training = shifted_organs(15)
    prior = PositionPrior.fit(training, [2], grid=16)

    def left_out_dice(factor: float) -> float:
        scores = []
        for index, label_map in enumerate(training):
            others = [other for number, other in enumerate(training) if number % 5 != index % 5]
            fraction = np.mean([other == 2 for other in others], axis=0)
            scores.append(dice(np.where(fraction * factor > 1 - fraction, 2, 0), label_map, 2))
        return float(np.mean(scores))

    factors = [2 ** (step / 2) for step in range(13)]
    assert prior.factor == factors[int(np.argmax([left_out_dice(factor) for factor in factors]))]


def test_the_more_frequent_label_is_predicted_and_background_if_both_are_rare():
    probability = np.zeros((2, 4, 4, 4), np.float16)
    probability[:, 0] = np.array([0.3, 0.4])[:, None, None]
    probability[:, 1] = np.array([0.2, 0.1])[:, None, None]
    probability[:, 2] = np.array([0.05, 0.05])[:, None, None]
    predicted = PositionPrior(probability, (2, 7), factor=4.0).predict((4, 4, 4))
    assert predicted[:, 0, 0].tolist() == [7, 2, 0, 0]


@pytest.mark.parametrize(("label_maps", "labels"), [([], [1]), ([np.zeros((4, 4, 4), np.uint8)], [0])])
def test_a_prior_without_label_maps_or_labels_is_refused(label_maps, labels):
    with pytest.raises(ValueError, match="needs label maps and labels"):
        PositionPrior.fit(label_maps, labels, grid=4)


def test_a_saved_prior_predicts_the_same(tmp_path):
    prior = PositionPrior.fit(shifted_organs(8), LABELS, grid=16)
    path = tmp_path / "deep" / "prior.npz"
    prior.save(path)
    loaded = PositionPrior.load(path)
    assert (loaded.labels, loaded.factor) == (prior.labels, prior.factor)
    np.testing.assert_array_equal(loaded.predict((9, 20, 13)), prior.predict((9, 20, 13)))
    assert [file.name for file in path.parent.iterdir()] == ["prior.npz"]


def test_a_failed_save_keeps_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "prior.npz"
    prior = PositionPrior.fit(shifted_organs(2), [2], grid=4)
    prior.save(path)
    before = path.read_bytes()

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(prior_module.np, "savez_compressed", full_disk)
    with pytest.raises(OSError, match="no space left"):
        prior.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_not_a_prior_is_refused_by_name(tmp_path):
    prior_file, array_file, other_file = tmp_path / "cut.npz", tmp_path / "array.npy", tmp_path / "other.npz"
    PositionPrior.fit(shifted_organs(2), [2], grid=4).save(prior_file)
    prior_file.write_bytes(prior_file.read_bytes()[:100])
    np.save(array_file, np.zeros(3))
    np.savez(other_file, something=np.zeros(3))
    (tmp_path / "empty.npz").touch()
    (tmp_path / "text.npz").write_text("text")
    for name in ("cut.npz", "array.npy", "other.npz", "empty.npz", "text.npz", "missing.npz"):
        with pytest.raises(RunError, match=name):
            PositionPrior.load(tmp_path / name)


def test_cases_without_a_label_do_not_remove_it_from_the_prediction() -> None:
    """Half of the training cases have a tumour at varying positions, and half have none."""
    maps = []
    for case in range(10):
        label_map = np.zeros((8, 8, 8), np.uint8)
        if case % 2:
            label_map[1:5, 1:5, 1 + case % 3 : 5 + case % 3] = 1
        maps.append(label_map)
    assert (PositionPrior.fit(maps, [1]).predict((8, 8, 8)) == 1).any()
