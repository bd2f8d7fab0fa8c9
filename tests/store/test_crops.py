"""The stream of crops: numbered, reproducible, uniform over scans, and cut at the right position."""

from __future__ import annotations

import pickle
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stores import PLAN, SHAPES, VIEWS, VOXELS, make_store, same, stream
from voxmim.errors import StoreError
from voxmim.store.crops import Batch, CropPlan, Crops, Triple, batches, draw_near, draw_start, middle_start, read_crop
from voxmim.store.format import Case, Index, Preparation, Store
from voxmim.store.writing import write_case

triples = st.tuples(*[st.integers(1, 40)] * 3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("crops"), VOXELS)


def join(parts: list[Batch]) -> list[tuple]:
    """The crops of several batches as one list."""
    return [
        (image, label, int(seed), name, present)
        for part in parts
        for image, label, seed, name, present in zip(*part[:5], strict=True)
    ]


def test_a_crop_does_not_depend_on_when_it_is_read(store: Store) -> None:
    forward = [stream(store)[n] for n in range(14)]
    crops = stream(store)
    backward = [crops[n] for n in reversed(range(14))]
    assert all(same(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    unpickled = pickle.loads(pickle.dumps(crops))  # as for a worker process
    assert same(unpickled[5], forward[5])


def test_every_crop_has_its_own_seed(store: Store) -> None:
    crops, other = stream(store), stream(store, replace(PLAN, seed=4))
    assert len({crops[n][2] for n in range(30)} | {other[n][2] for n in range(30)}) == 60


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_crops_do_not_depend_on_the_batch_size(store: Store, batch: int) -> None:
    crops = stream(store)
    rows = join(list(batches(crops, batch, 0, 12 // batch)))
    assert len(rows) == 12
    assert all(same(row, crops[n]) for n, row in enumerate(rows))


def test_a_stream_from_a_later_step_gives_the_same_crops(store: Store) -> None:
    whole = list(batches(stream(store), 2, 0, 7))
    rest = list(batches(stream(store), 2, 4, 7))
    assert len(rest) == 3
    assert all(same(a, b) for a, b in zip(join(whole[4:]), join(rest), strict=True))


def test_processes_split_the_crops_of_each_step(store: Store) -> None:
    alone = list(batches(stream(store), 4, 1, 4))
    per_rank = [list(batches(stream(store), 4, 1, 4, rank, world=2)) for rank in range(2)]
    for step, together in enumerate(alone):
        assert all(
            same(a, b) for a, b in zip(join([together]), join([per_rank[0][step], per_rank[1][step]]), strict=True)
        )


@pytest.mark.parametrize("crops_per_scan", [1, 3])
def test_every_scan_is_visited_once_per_round_in_a_new_order(store: Store, crops_per_scan: int) -> None:
    crops = stream(store, replace(PLAN, crops_per_scan=crops_per_scan))
    names = [crops[n][3] for n in range(6 * len(SHAPES) * crops_per_scan)]
    visits = names[::crops_per_scan]
    assert [name for name in visits for _ in range(crops_per_scan)] == names
    rounds = [tuple(visits[i : i + len(SHAPES)]) for i in range(0, len(visits), len(SHAPES))]
    assert all(sorted(one) == sorted(VOXELS) for one in rounds)
    assert len(set(rounds)) > 1


@given(shape=triples, size=triples, seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_crop_exceeds_the_scan_only_if_it_is_larger(shape: Triple, size: Triple, seed: int) -> None:
    for start in (draw_start(shape, size, np.random.default_rng(seed)), middle_start(shape, size)):
        for first, n, width in zip(start, shape, size, strict=True):
            if n >= width:
                assert 0 <= first <= n - width
            else:
                assert first <= 0
                assert first + width >= n


@given(shape=triples, size=triples, fraction=st.tuples(*[st.floats(0, 0.999)] * 3), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_crop_around_a_voxel_contains_it(shape: Triple, size: Triple, fraction: tuple[float, ...], seed: int) -> None:
    centre = np.array([int(s * n) for s, n in zip(fraction, shape, strict=True)])
    start = draw_start(shape, size, np.random.default_rng(seed), centre)
    for first, n, width, voxel in zip(start, shape, size, centre, strict=True):
        assert first <= voxel < first + width
        assert min(0, n - width) <= first <= max(0, n - width)
        if 0 < first < n - width:  # not clipped at the border of the scan
            assert abs(first + width // 2 - voxel) <= width // 4


def test_all_starts_are_drawn_equally_often() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(draw_start((10, 4, 5), (8, 4, 7), rng) for _ in range(1800))
    assert set(counts) == {(x, 0, z) for x in range(3) for z in (-2, -1, 0)}
    assert min(counts.values()) > 150  # 200 expected


def plain_crop(array: np.ndarray, start: Triple, size: Triple, fill: float) -> np.ndarray:
    """A crop (..., *size) copied voxel by voxel."""
    box = np.full((*array.shape[:-3], *size), fill, dtype=np.float64)
    for place in np.ndindex(*size):
        voxel = tuple(s + p for s, p in zip(start, place, strict=True))
        if all(0 <= v < n for v, n in zip(voxel, array.shape[-3:], strict=True)):
            box[(..., *place)] = array[(..., *voxel)]
    return box


@pytest.mark.parametrize(
    ("name", "start"), [("case_0", (3, 7, 2)), ("case_2", (-3, 11, -2)), ("case_2", (0, 0, -3)), ("case_3", (9, 0, 2))]
)
def test_a_crop_agrees_with_plain_slicing_and_padding_with_air(store: Store, name: str, start: Triple) -> None:
    image, label = read_crop(store, store.cases[name], start, PLAN)
    hu = plain_crop(VOXELS[name][0], start, PLAN.size, fill=-1024)
    assert (image.dtype, label.dtype) == (torch.float32, torch.int64)
    np.testing.assert_allclose(image.numpy(), np.clip((hu + 175) / 425, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(label.numpy()[0], plain_crop(VOXELS[name][1], start, PLAN.size, fill=0))


def test_mr_is_read_unchanged_and_padded_with_the_mean(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 6, 9, 7)).astype(np.float16)
    store = make_store(tmp_path, {"case": (image, None)}, "mr")
    plan = CropPlan((8, 8, 8), (-175.0, 250.0), seed=0)
    crop, label = read_crop(store, store.cases["case"], (-1, 1, 0), plan)
    np.testing.assert_array_equal(crop.numpy(), plain_crop(image, (-1, 1, 0), (8, 8, 8), fill=0))
    assert crop.dtype == torch.float32
    assert label.shape == (1, 0, 0, 0)


def test_a_batch_without_labels_has_empty_ones(store: Store) -> None:
    [batch] = batches(stream(store, replace(PLAN, labelled=False)), 3, 0, 1)
    assert batch.image.shape == (3, 2, *PLAN.size)
    assert batch.label.shape == (3, 1, 0, 0, 0)


def rare_label_store(path: Path) -> Store:
    """A scan with a large label at one end and a small one at the other."""
    label = np.zeros((60, 10, 10), np.uint8)
    label[:20] = 1
    label[55, 5, 5] = 2
    return make_store(path, {"case": (np.zeros((1, *label.shape), np.int16), label)})


def test_foreground_crops_contain_each_label_equally_often(tmp_path: Path) -> None:
    store = rare_label_store(tmp_path)
    crops = stream(store, CropPlan((10, 8, 8), (0.0, 1.0), seed=0, labelled=True, foreground=1.0))
    counts = Counter(tuple(torch.unique(crops[n][1]).tolist()) for n in range(200))
    large = sum(count for labels, count in counts.items() if 1 in labels)
    small = sum(count for labels, count in counts.items() if 2 in labels)
    assert large + small == 200
    assert 70 < small < 130


def test_the_fraction_of_foreground_crops_is_as_specified(tmp_path: Path) -> None:
    store = rare_label_store(tmp_path)
    small = {}
    for fraction in (0.0, 0.5):
        crops = stream(store, CropPlan((6, 8, 8), (0.0, 1.0), seed=0, labelled=True, foreground=fraction))
        small[fraction] = sum(bool((crops[n][1] == 2).any()) for n in range(300)) / 300
    by_chance = 6 / 55  # fraction of starts along X with the small label, which fits in Y and Z
    assert small[0.0] == pytest.approx(by_chance, abs=0.06)
    assert small[0.5] == pytest.approx(0.25 + by_chance / 2, abs=0.08)


def test_a_scan_without_labelled_voxels_is_cropped_anywhere(store: Store) -> None:
    crops = Crops(store, [store.cases["case_4"]], replace(PLAN, foreground=1.0))
    starts = {float(crops[n][0][0, 0, 0, 0]) for n in range(20)}
    assert len(starts) > 1


def half_in_air(tmp_path: Path, air: int = -1000) -> Store:
    """A CT that is half body and half air; values below the window become one value."""
    body = np.random.default_rng(0).integers(0, 200, (1, 40, 12, 12))
    body[:, :20] = np.random.default_rng(1).integers(air - 50, air, (1, 20, 12, 12))
    return make_store(tmp_path, {"half": (body.astype(np.int16), None)})


@pytest.mark.parametrize("views", [None, 0.9])
def test_crops_without_labels_avoid_air(tmp_path: Path, views: float | None) -> None:
    """Two in five positions show only air; they are avoided only if all air has the same value after windowing."""
    plan = replace(PLAN, size=(8, 8, 8), labelled=False, foreground=0.0, views=views)
    stds = [image.std() for image, *_ in (stream(half_in_air(tmp_path / "air"), plan)[i] for i in range(120))]
    empty = sum(std == 0 for std in stds)
    assert empty < 3 if views is None else empty < 12  # the second view may miss the body
    soft = stream(half_in_air(tmp_path / "soft", -50), plan)
    bright = [image.mean() > 0.42 for image, *_ in (soft[i] for i in range(120))]
    assert 20 < 120 - sum(bright) < 100


def test_a_scan_of_air_only_still_gives_crops(tmp_path: Path) -> None:
    store = make_store(tmp_path, {"air": (np.full((1, 20, 20, 20), -1000, np.int16), None)})
    image, *_ = stream(store, replace(PLAN, labelled=False))[0]
    assert image.shape == (1, 12, 8, 10)
    assert not image.any()


def test_a_stream_without_cases_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="there is no case to train on"):
        Crops(store, [], PLAN)


@given(shape=triples, size=triples, overlap=st.floats(0, 1), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_a_near_crop_overlaps_enough_and_stays_in_the_scan(
    shape: Triple, size: Triple, overlap: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    start = draw_start(shape, size, rng)
    near = draw_near(start, shape, size, overlap, rng)
    for axis in range(3):
        assert size[axis] - abs(near[axis] - start[axis]) >= overlap * size[axis]
        room = shape[axis] - size[axis]
        assert min(0, room) <= near[axis] <= max(0, room)
    assert draw_near(start, shape, size, 1.0, rng) == start


def test_a_near_crop_is_shifted_in_both_directions() -> None:
    rng = np.random.default_rng(0)
    drawn = {draw_near((10, 10, 10), (30, 30, 30), (10, 10, 10), 0.7, rng)[0] for _ in range(200)}
    assert drawn == set(range(7, 14))


def test_consecutive_crops_are_two_views_of_one_position(store: Store) -> None:
    crops = stream(store, VIEWS)
    places = {}
    for number in range(40):
        image, label, _, name, _ = crops[number]
        assert label.numel() == 0
        place = position_of(store, image, name)
        places[number] = (name, place)
    for pair in range(20):
        (name, first), (partner_name, second) = places[2 * pair], places[2 * pair + 1]
        assert name == partner_name
        overlaps = [size - abs(a - b) for size, a, b in zip(VIEWS.size, first, second, strict=True)]
        assert all(overlap >= 0.6 * size for overlap, size in zip(overlaps, VIEWS.size, strict=True))
    assert sum(places[2 * pair][1] != places[2 * pair + 1][1] for pair in range(20)) > 15
    assert len({places[2 * pair][0] for pair in range(5)}) == 5  # every scan is visited once per round
    seeds = [crops[number][2] for number in range(40)]
    assert len(set(seeds)) == 40  # each view is augmented independently
    assert same(crops[7], stream(store, VIEWS)[7])


def position_of(store: Store, image: torch.Tensor, name: str) -> Triple:
    """The position of a crop, identified by the noise of the scan."""
    case = store.cases[name]
    reach = [range(min(0, n - s), max(0, n - s) + 1) for n, s in zip(case.shape, VIEWS.size, strict=True)]
    matches = [
        (x, y, z)
        for x in reach[0]
        for y in reach[1]
        for z in reach[2]
        if torch.equal(read_crop(store, case, (x, y, z), VIEWS)[0], image)
    ]
    (place,) = matches
    return place


# Channels


def four_channels(tmp_path: Path) -> Store:
    """Scans with four channels, where channel c has the value c + 1; b lacks channels 0 and 2."""
    voxels = np.broadcast_to(np.float16([1, 2, 3, 4]).reshape(4, 1, 1, 1), (4, 9, 9, 9)).copy()
    cases = [
        write_case(tmp_path, Case("a", "train", (9, 9, 9), ("a.nii",)), voxels, None),
        write_case(tmp_path, Case("b", "train", (9, 9, 9), ("b.nii",), missing=(0, 2)), voxels, None),
    ]
    Index("mr", Preparation((1.0, 1.0, 1.0), "mr", ("T1", "T1ce", "T2", "FLAIR")), {}, cases).write(tmp_path)
    return Store(tmp_path)


MR_PLAN = CropPlan(size=(4, 4, 4), window=(0.0, 1.0), seed=3)
VALUES = torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_a_crop_has_every_channel_of_its_scan(tmp_path: Path) -> None:
    crops = stream(four_channels(tmp_path), MR_PLAN)
    for image, _, _, name, present in map(crops.__getitem__, range(6)):
        assert present.tolist() == ([True] * 4 if name == "a" else [False, True, False, True])
        assert torch.equal(image[:, 0, 0, 0], VALUES * present)


def test_drawn_channels_are_never_empty_and_their_number_is_uniform(tmp_path: Path) -> None:
    crops = stream(four_channels(tmp_path), replace(MR_PLAN, channels="drawn"))
    drawn: dict[str, Counter] = {"a": Counter(), "b": Counter()}
    for image, _, _, name, present in map(crops.__getitem__, range(600)):
        assert torch.equal(image, (VALUES * present)[:, None, None, None].expand(4, 4, 4, 4))
        drawn[name][tuple(present.nonzero().flatten().tolist())] += 1
    assert len(drawn["a"]) == 15
    by_number = Counter({n: sum(c for part, c in drawn["a"].items() if len(part) == n) for n in (1, 2, 3, 4)})
    assert all(45 < count < 105 for count in by_number.values())  # 75 expected
    assert set(drawn["b"]) == {(1,), (3,), (1, 3)}


def test_a_single_drawn_channel_is_one_of_the_scan(tmp_path: Path) -> None:
    crops = stream(four_channels(tmp_path), replace(MR_PLAN, channels="one"))
    drawn: dict[str, set] = {"a": set(), "b": set()}
    for image, _, _, name, present in map(crops.__getitem__, range(80)):
        assert (tuple(image.shape), present.tolist()) == ((1, 4, 4, 4), [True])
        drawn[name].add(float(image[0, 0, 0, 0]))
    assert drawn == {"a": {1, 2, 3, 4}, "b": {2, 4}}


@pytest.mark.parametrize("channels", ["drawn", "one"])
def test_drawn_channels_depend_on_the_number_of_the_crop_and_change_nothing_else(tmp_path: Path, channels: str) -> None:
    store = four_channels(tmp_path)
    plan = replace(MR_PLAN, channels=channels)
    assert same(stream(store, plan)[17], stream(store, plan)[17])
    rest = list(batches(stream(store, plan), 3, 2, 4))
    assert [same(row, stream(store, plan)[n]) for n, row in enumerate(join(rest), start=6)] == [True] * 6
    whole = stream(store, MR_PLAN)
    assert all(stream(store, plan)[n][2:4] == whole[n][2:4] for n in range(9))
    one, other = (Crops(store, [store.cases["a"]], replace(plan, seed=seed)) for seed in (3, 4))
    assert not all(torch.equal(one[n][0], other[n][0]) for n in range(20))


def test_a_crop_does_not_read_the_whole_scan(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Store, name: str) -> np.ndarray:
        raise AssertionError(f"{name} was read whole")

    monkeypatch.setattr(Store, "image", refuse)
    monkeypatch.setattr(Store, "label_map", refuse)
    crops = stream(store, replace(PLAN, foreground=1.0))
    assert all((crops[number][1] > 0).any() for number in range(20) if crops[number][3] != "case_4")


def test_reading_ahead_does_not_interfere_with_other_reads(store: Store) -> None:
    crops, expected = stream(store), [stream(store)[n] for n in range(60)]
    rows = []
    for batch in batches(crops, 2, 0, 30):
        for name in VOXELS:  # as validation does
            np.testing.assert_array_equal(store.image(name), VOXELS[name][0])
        rows += join([batch])
    assert all(same(a, b) for a, b in zip(rows, expected, strict=True))


def test_closing_a_stream_early_ends_its_thread(store: Store) -> None:
    before = threading.active_count()
    crops = batches(stream(store), 2, 0, 30)
    next(crops)
    crops.close()
    assert threading.active_count() == before
