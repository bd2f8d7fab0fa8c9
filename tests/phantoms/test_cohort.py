from __future__ import annotations

import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from voxmim.errors import SourceError, VoxmimError
from voxmim.images.volume import Volume, read_volume
from voxmim.phantoms.cohort import KINDS, LABELS, contrast_phase, draw_phantom, write_cohort
from voxmim.phantoms.shapes import Canvas
from voxmim.phantoms.trunk import Person, draw_build

VALUE = {name: value for value, name in LABELS.items()}
SEEDS = range(20, 32)


@functools.cache
def case(seed: int) -> tuple[Volume, Volume]:
    return draw_phantom(seed)


def ras(volume: Volume) -> np.ndarray:
    """(X, Y, Z) with the axes running right, anterior, superior; phantoms are flipped but not rotated."""
    assert np.count_nonzero(volume.affine[:3, :3]) == 3
    return np.flip(volume.array[0], [axis for axis in range(3) if volume.affine[axis, axis] < 0])


def places(labels: Volume, name: str) -> np.ndarray:
    """(N, 3) world mm of the label's voxels."""
    index = np.argwhere(labels.array[0] == VALUE[name])
    return index @ labels.affine[:3, :3].T + labels.affine[:3, 3]


def test_same_seed_gives_the_same_case() -> None:
    for first, again in zip(case(20), draw_phantom(20), strict=True):
        assert np.array_equal(first.array, again.array)
        assert np.array_equal(first.affine, again.affine)


def test_different_seeds_give_different_people() -> None:
    labels = [case(seed)[1] for seed in SEEDS]
    spleens = {float(np.sum(each.array == VALUE["spleen"]) * each.spacing.prod()) for each in labels}
    assert len(spleens) == len(SEEDS)
    assert max(spleens) > 1.5 * min(spleens)
    assert len({case(seed)[0].shape for seed in SEEDS}) > len(SEEDS) // 2


def test_consecutive_seeds_differ_in_orientation() -> None:
    signs = [tuple(np.sign(np.diag(case(seed)[0].affine)[:3])) for seed in SEEDS]
    assert all(a != b for a, b in itertools.pairwise(signs))


@pytest.mark.parametrize("seed", SEEDS)
def test_types_sizes_and_geometry(seed: int) -> None:
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
def test_tissues_have_the_hu_of_ct(seed: int) -> None:
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
def test_organs_lie_as_in_people(seed: int) -> None:
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
def test_the_liver_lies_under_the_right_lung(seed: int) -> None:
    image, labels = (ras(volume) for volume in case(seed))
    liver = np.argwhere(labels == VALUE["liver"])
    x, y, z = liver[liver[:, 2].argmax()]
    assert image[x, y, z + 2 : z + 5].min() < -400


def test_vertebrae_repeat_along_the_spine() -> None:
    """The spine's cross-section swells and shrinks with the height of a vertebra and its disc."""
    for seed in SEEDS:
        labels = case(seed)[1]
        area = np.sum(ras(labels) == VALUE["spine"], axis=(0, 1))
        waves = (area - ndimage.gaussian_filter1d(area.astype(float), 4))[2:-2]
        power = np.abs(np.fft.rfft(waves * np.hanning(len(waves)), 1024))
        period = labels.spacing[2] * 1024 / power.argmax()
        assert 20 < period < 42


def position_only_dice(train: list[int], test: list[int]) -> float:
    """Mean Dice of the mean training label map laid on each body's bounding box, at the best threshold a label."""

    def boxed(seed: int) -> np.ndarray:
        image, labels = (ras(volume) for volume in case(seed))
        body = ndimage.binary_opening(image > -400).astype(np.uint8)
        box = labels[ndimage.find_objects(body)[0]]
        grid = [
            np.linspace(0, n - 1, size).round().astype(int) for n, size in zip(box.shape, (48, 40, 48), strict=True)
        ]
        return np.stack([box[np.ix_(*grid)] == value for value in LABELS])

    def dice(guess: np.ndarray, truth: np.ndarray) -> np.ndarray:
        axes = (1, 2, 3)
        return 2 * (guess & truth).sum(axes) / np.maximum(guess.sum(axes) + truth.sum(axes), 1)

    known = [boxed(seed) for seed in train]
    mean = np.mean(known, axis=0)
    thresholds = np.arange(0.15, 0.6, 0.05)
    best = thresholds[np.mean([[dice(mean > t, truth) for t in thresholds] for truth in known], axis=0).argmax(0)]
    return float(np.mean([dice(mean > best[:, None, None, None], boxed(seed)) for seed in test]))


def test_position_alone_does_not_find_the_organs() -> None:
    assert 0.3 < position_only_dice(train=list(SEEDS)[:9], test=list(SEEDS)[9:]) < 0.6


def test_some_livers_have_a_lesion_that_belongs_to_the_liver(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bool] = []
    lesions = Person.lesions

    def watched(self: Person, liver: np.ndarray) -> None:
        hu, labels = self.canvas.values[0].copy(), self.canvas.labels.copy()
        lesions(self, liver)
        darker = self.canvas.values[0] < hu - 10
        drawn.append(bool(darker.any()))
        assert np.all(self.canvas.labels[darker] == VALUE["liver"])
        assert np.array_equal(self.canvas.labels, labels)

    monkeypatch.setattr(Person, "lesions", watched)
    axes = (np.arange(-170, 171, 8.0), np.arange(-150, 121, 8.0), np.arange(-200, 61, 8.0))
    for seed in range(48):
        rng = np.random.default_rng(seed)
        x, y, z = (axis.astype(np.float32) for axis in np.meshgrid(*axes, indexing="ij"))
        Person(Canvas(x, y, z, np.full(3, 8.0)), draw_build(rng), rng).liver()
    assert 3 <= sum(drawn) <= 16


def test_the_class_of_a_trunk_is_what_its_aorta_shows() -> None:
    found = set()
    for seed in SEEDS:
        image, labels = case(seed)
        bright = np.median(image.array[labels.array == VALUE["aorta"]])
        assert contrast_phase(seed) == ("plain" if bright < 80 else "venous" if bright < 200 else "arterial"), seed
        found.add(contrast_phase(seed))
    assert len(found) == 3


def test_a_cohort_reads_back_as_it_was_drawn(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_cohort(tmp_path / "new" / "cohort", 5, seed=0, on_case=lambda done, total: seen.append((done, total)))
    out = tmp_path / "new" / "cohort"
    assert seen == [(i + 1, 5) for i in range(5)]
    assert sorted(p.name for p in out.iterdir()) == [
        "classes.csv", "dataset.json", "imagesTr", "labelsTr", "splits.json",
    ]  # fmt: skip
    assert [p.name for p in out.parent.iterdir()] == ["cohort"]
    dataset = json.loads((out / "dataset.json").read_text())
    assert dataset["channel_names"] == {"0": "CT"}
    assert dataset["labels"] == {"background": 0} | VALUE
    assert "regions" not in dataset
    splits = json.loads((out / "splits.json").read_text())
    assert set(splits) == {"train", "val", "test", "unlabelled"}
    assert splits["unlabelled"] == []
    assert all(splits[part] for part in ("train", "val", "test"))
    assert sorted(splits["train"] + splits["val"] + splits["test"]) == [f"phantom_{i:03d}" for i in range(5)]
    classes = [f"phantom_{index:03d},{contrast_phase(index)}" for index in range(5)]
    assert (out / "classes.csv").read_text().splitlines() == ["case,class", *classes]
    for index in range(5):
        for folder, drawn in zip(("imagesTr", "labelsTr"), draw_phantom(index), strict=True):
            read = read_volume(out / folder / f"phantom_{index:03d}{dataset['file_ending']}")
            assert read.array.dtype == drawn.array.dtype
            assert np.array_equal(read.array, drawn.array)
            assert np.allclose(read.affine, drawn.affine, atol=1e-3)


@pytest.mark.parametrize(("cases", "shares"), [(4, (2, 1, 1)), (20, (12, 3, 5)), (40, (24, 6, 10))])
def test_shares_of_the_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: int, shares: tuple[int, int, int]
) -> None:
    tiny = Volume(np.zeros((1, 2, 2, 2), np.uint8), np.eye(4))
    monkeypatch.setitem(KINDS, "trunk", replace(KINDS["trunk"], draw=lambda _: (tiny, tiny), class_of=lambda *_: "x"))
    write_cohort(tmp_path / "cohort", cases, seed=3)
    splits = json.loads((tmp_path / "cohort" / "splits.json").read_text())
    assert tuple(len(splits[part]) for part in ("train", "val", "test")) == shares


def test_too_few_cases_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VoxmimError, match="ask for 4 cases or more"):
        write_cohort(tmp_path / "cohort", 3, seed=0)
    assert not (tmp_path / "cohort").exists()


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VoxmimError, match="0 or more"):
        draw_phantom(-1)
    with pytest.raises(VoxmimError, match="seed -1: "):
        write_cohort(tmp_path / "cohort", 4, seed=-1)
    assert not (tmp_path / "cohort").exists()


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VoxmimError, match=r"'heads' is no kind of phantom \(trunk, head\); did you mean 'head'\?"):
        write_cohort(tmp_path / "cohort", 4, seed=0, kind="heads")
    assert not (tmp_path / "cohort").exists()


def test_an_empty_folder_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Volume(np.zeros((1, 2, 2, 2), np.uint8), np.eye(4))
    monkeypatch.setitem(KINDS, "trunk", replace(KINDS["trunk"], draw=lambda _: (tiny, tiny), class_of=lambda *_: "x"))
    (tmp_path / "cohort").mkdir()
    monkeypatch.chdir(tmp_path / "cohort")
    write_cohort(Path("."), 4, seed=0)
    assert (tmp_path / "cohort" / "splits.json").is_file()


def test_an_occupied_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(SourceError, match="not an empty folder"):
        write_cohort(tmp_path, 4, seed=0)
    with pytest.raises(SourceError, match="not an empty folder"):
        write_cohort(tmp_path / "mine.txt", 4, seed=0)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_is_left_when_writing_is_interrupted(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "cohort", 4, seed=0, on_case=stop)
    assert list(tmp_path.iterdir()) == []
