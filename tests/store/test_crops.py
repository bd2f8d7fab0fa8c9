"""The stream of crops: numbered, repeatable, fair to every scan, and cut where it says."""

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
    """The crops of several batches in a row."""
    return [
        (image, label, int(seed), name, present)
        for part in parts
        for image, label, seed, name, present in zip(*part[:5], strict=True)
    ]


def test_a_crop_is_the_same_whenever_it_is_read(store: Store) -> None:
    forward = [stream(store)[n] for n in range(14)]
    crops = stream(store)
    backward = [crops[n] for n in reversed(range(14))]
    assert all(same(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    travelled = pickle.loads(pickle.dumps(crops))  # as to a worker process
    assert same(travelled[5], forward[5])


def test_seeds_and_numbers_differ(store: Store) -> None:
    crops, other = stream(store), stream(store, replace(PLAN, seed=4))
    assert len({crops[n][2] for n in range(30)} | {other[n][2] for n in range(30)}) == 60


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_the_split_into_batches_changes_nothing(store: Store, batch: int) -> None:
    crops = stream(store)
    found = join(list(batches(crops, batch, 0, 12 // batch)))
    assert len(found) == 12
    assert all(same(row, crops[n]) for n, row in enumerate(found))


def test_a_later_first_step_goes_on_exactly(store: Store) -> None:
    whole = list(batches(stream(store), 2, 0, 7))
    rest = list(batches(stream(store), 2, 4, 7))
    assert len(rest) == 3
    assert all(same(a, b) for a, b in zip(join(whole[4:]), join(rest), strict=True))


def test_processes_divide_the_crops_of_each_step(store: Store) -> None:
    alone = list(batches(stream(store), 4, 1, 4))
    shares = [list(batches(stream(store), 4, 1, 4, rank, world=2)) for rank in range(2)]
    for step, together in enumerate(alone):
        assert all(same(a, b) for a, b in zip(join([together]), join([shares[0][step], shares[1][step]]), strict=True))


@pytest.mark.parametrize("crops_per_scan", [1, 3])
def test_every_scan_is_visited_once_a_round_in_a_new_order(store: Store, crops_per_scan: int) -> None:
    crops = stream(store, replace(PLAN, crops_per_scan=crops_per_scan))
    names = [crops[n][3] for n in range(6 * len(SHAPES) * crops_per_scan)]
    visits = names[::crops_per_scan]
    assert [name for name in visits for _ in range(crops_per_scan)] == names
    rounds = [tuple(visits[i : i + len(SHAPES)]) for i in range(0, len(visits), len(SHAPES))]
    assert all(sorted(one) == sorted(VOXELS) for one in rounds)
    assert len(set(rounds)) > 1


@given(shape=triples, size=triples, seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_crop_never_leaves_the_scan_needlessly(shape: Triple, size: Triple, seed: int) -> None:
    for start in (draw_start(shape, size, np.random.default_rng(seed)), middle_start(shape, size)):
        for first, n, width in zip(start, shape, size, strict=True):
            if n >= width:
                assert 0 <= first <= n - width
            else:
                assert first <= 0
                assert first + width >= n


@given(shape=triples, size=triples, share=st.tuples(*[st.floats(0, 0.999)] * 3), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_a_crop_about_a_voxel_holds_it(shape: Triple, size: Triple, share: tuple[float, ...], seed: int) -> None:
    centre = np.array([int(s * n) for s, n in zip(share, shape, strict=True)])
    start = draw_start(shape, size, np.random.default_rng(seed), centre)
    for first, n, width, voxel in zip(start, shape, size, centre, strict=True):
        assert first <= voxel < first + width
        assert min(0, n - width) <= first <= max(0, n - width)
        if 0 < first < n - width:  # not pushed back from the scan's border
            assert abs(first + width // 2 - voxel) <= width // 4


def test_every_start_is_drawn_alike() -> None:
    rng = np.random.default_rng(0)
    found = Counter(draw_start((10, 4, 5), (8, 4, 7), rng) for _ in range(1800))
    assert set(found) == {(x, 0, z) for x in range(3) for z in (-2, -1, 0)}
    assert min(found.values()) > 150  # of 200


def plain_crop(array: np.ndarray, start: Triple, size: Triple, fill: float) -> np.ndarray:
    """(..., *size) voxel by voxel."""
    box = np.full((*array.shape[:-3], *size), fill, dtype=np.float64)
    for place in np.ndindex(*size):
        voxel = tuple(s + p for s, p in zip(start, place, strict=True))
        if all(0 <= v < n for v, n in zip(voxel, array.shape[-3:], strict=True)):
            box[(..., *place)] = array[(..., *voxel)]
    return box


@pytest.mark.parametrize(
    ("name", "start"), [("case_0", (3, 7, 2)), ("case_2", (-3, 11, -2)), ("case_2", (0, 0, -3)), ("case_3", (9, 0, 2))]
)
def test_a_crop_is_what_plain_slicing_gives_padded_with_air(store: Store, name: str, start: Triple) -> None:
    image, label = read_crop(store, store.cases[name], start, PLAN)
    hu = plain_crop(VOXELS[name][0], start, PLAN.size, fill=-1024)
    assert (image.dtype, label.dtype) == (torch.float32, torch.int64)
    np.testing.assert_allclose(image.numpy(), np.clip((hu + 175) / 425, 0, 1), atol=1e-6)
    np.testing.assert_array_equal(label.numpy()[0], plain_crop(VOXELS[name][1], start, PLAN.size, fill=0))


def test_mr_is_read_as_it_is_and_padded_with_the_mean(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(1, 6, 9, 7)).astype(np.float16)
    store = make_store(tmp_path, {"case": (image, None)}, "mr")
    plan = CropPlan((8, 8, 8), (-175.0, 250.0), seed=0)
    found, label = read_crop(store, store.cases["case"], (-1, 1, 0), plan)
    np.testing.assert_array_equal(found.numpy(), plain_crop(image, (-1, 1, 0), (8, 8, 8), fill=0))
    assert found.dtype == torch.float32
    assert label.shape == (1, 0, 0, 0)


def test_a_batch_without_labels_has_empty_ones(store: Store) -> None:
    [batch] = batches(stream(store, replace(PLAN, labelled=False)), 3, 0, 1)
    assert batch.image.shape == (3, 2, *PLAN.size)
    assert batch.label.shape == (3, 1, 0, 0, 0)


def rare_label_store(path: Path) -> Store:
    """A scan with a large label at one end, and a small one at the other."""
    label = np.zeros((60, 10, 10), np.uint8)
    label[:20] = 1
    label[55, 5, 5] = 2
    return make_store(path, {"case": (np.zeros((1, *label.shape), np.int16), label)})


def test_foreground_crops_hold_each_label_equally_often(tmp_path: Path) -> None:
    store = rare_label_store(tmp_path)
    crops = stream(store, CropPlan((10, 8, 8), (0.0, 1.0), seed=0, labelled=True, foreground=1.0))
    found = Counter(tuple(torch.unique(crops[n][1]).tolist()) for n in range(200))
    large = sum(count for labels, count in found.items() if 1 in labels)
    small = sum(count for labels, count in found.items() if 2 in labels)
    assert large + small == 200
    assert 70 < small < 130


def test_the_fraction_of_foreground_crops_is_as_set(tmp_path: Path) -> None:
    store = rare_label_store(tmp_path)
    small = {}
    for share in (0.0, 0.5):
        crops = stream(store, CropPlan((6, 8, 8), (0.0, 1.0), seed=0, labelled=True, foreground=share))
        small[share] = sum(bool((crops[n][1] == 2).any()) for n in range(300)) / 300
    anywhere = 6 / 55  # of the starts along X hold the small label (it is never at the end of Y or Z)
    assert small[0.0] == pytest.approx(anywhere, abs=0.06)
    assert small[0.5] == pytest.approx(0.25 + anywhere / 2, abs=0.08)


def test_a_scan_without_a_labelled_voxel_is_cropped_anywhere(store: Store) -> None:
    crops = Crops(store, [store.cases["case_4"]], replace(PLAN, foreground=1.0))
    starts = {float(crops[n][0][0, 0, 0, 0]) for n in range(20)}
    assert len(starts) > 1


def half_in_air(tmp_path: Path, air: int = -1000) -> Store:
    """A CT whose one half is body, and the other air; what the window cuts off at the bottom is one value."""
    body = np.random.default_rng(0).integers(0, 200, (1, 40, 12, 12))
    body[:, :20] = np.random.default_rng(1).integers(air - 50, air, (1, 20, 12, 12))
    return make_store(tmp_path, {"half": (body.astype(np.int16), None)})


@pytest.mark.parametrize("views", [None, 0.9])
def test_crops_without_labels_are_not_cut_from_air(tmp_path: Path, views: float | None) -> None:
    """Two in five places show nothing but air; the same places are drawn where no value stands for all of it."""
    plan = replace(PLAN, size=(8, 8, 8), labelled=False, foreground=0.0, views=views)
    spreads = [image.std() for image, *_ in (stream(half_in_air(tmp_path / "air"), plan)[i] for i in range(120))]
    empty = sum(spread == 0 for spread in spreads)
    assert empty < 3 if views is None else empty < 12  # a view near one that holds a little of the body may hold none
    soft = stream(half_in_air(tmp_path / "soft", -50), plan)
    bright = [image.mean() > 0.42 for image, *_ in (soft[i] for i in range(120))]
    assert 20 < 120 - sum(bright) < 100


def test_a_scan_of_nothing_but_air_still_gives_crops(tmp_path: Path) -> None:
    store = make_store(tmp_path, {"air": (np.full((1, 20, 20, 20), -1000, np.int16), None)})
    image, *_ = stream(store, replace(PLAN, labelled=False))[0]
    assert image.shape == (1, 12, 8, 10)
    assert not image.any()


def test_no_case_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="there is no case to train on"):
        Crops(store, [], PLAN)


@given(shape=triples, size=triples, overlap=st.floats(0, 1), seed=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_a_near_crop_overlaps_enough_and_leaves_the_scan_no_more_than_any(
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


def test_a_near_crop_lies_on_either_side() -> None:
    rng = np.random.default_rng(0)
    drawn = {draw_near((10, 10, 10), (30, 30, 30), (10, 10, 10), 0.7, rng)[0] for _ in range(200)}
    assert drawn == set(range(7, 14))


def test_two_crops_in_a_row_are_views_of_one_place(store: Store) -> None:
    crops = stream(store, VIEWS)
    places = {}
    for number in range(40):
        image, label, _, name, _ = crops[number]
        assert label.numel() == 0
        found = place_of(store, image, name)
        places[number] = (name, found)
    for pair in range(20):
        (name, first), (partner_name, second) = places[2 * pair], places[2 * pair + 1]
        assert name == partner_name
        shared = [size - abs(a - b) for size, a, b in zip(VIEWS.size, first, second, strict=True)]
        assert all(part >= 0.6 * size for part, size in zip(shared, VIEWS.size, strict=True))
    assert sum(places[2 * pair][1] != places[2 * pair + 1][1] for pair in range(20)) > 15
    assert len({places[2 * pair][0] for pair in range(5)}) == 5  # every scan is visited before any is visited again
    seeds = [crops[number][2] for number in range(40)]
    assert len(set(seeds)) == 40  # each view is augmented on its own
    assert same(crops[7], stream(store, VIEWS)[7])


def place_of(store: Store, image: torch.Tensor, name: str) -> Triple:
    """Where a crop was cut: the only place at which the scan's noise looks like it."""
    case = store.cases[name]
    reach = [range(min(0, n - s), max(0, n - s) + 1) for n, s in zip(case.shape, VIEWS.size, strict=True)]
    found = [
        (x, y, z)
        for x in reach[0]
        for y in reach[1]
        for z in reach[2]
        if torch.equal(read_crop(store, case, (x, y, z), VIEWS)[0], image)
    ]
    (place,) = found
    return place


# Channels


def four_channels(tmp_path: Path) -> Store:
    """Scans of four channels, each voxel of channel c being c + 1; b lacks channels 0 and 2."""
    voxels = np.broadcast_to(np.float16([1, 2, 3, 4]).reshape(4, 1, 1, 1), (4, 9, 9, 9)).copy()
    cases = [
        write_case(tmp_path, Case("a", "train", (9, 9, 9), ("a.nii",)), voxels, None),
        write_case(tmp_path, Case("b", "train", (9, 9, 9), ("b.nii",), missing=(0, 2)), voxels, None),
    ]
    Index("mr", Preparation((1.0, 1.0, 1.0), "mr", ("T1", "T1ce", "T2", "FLAIR")), {}, cases).write(tmp_path)
    return Store(tmp_path)


MR_PLAN = CropPlan(size=(4, 4, 4), window=(0.0, 1.0), seed=3)
VALUES = torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_a_crop_shows_every_channel_that_its_scan_has(tmp_path: Path) -> None:
    crops = stream(four_channels(tmp_path), MR_PLAN)
    for image, _, _, name, present in map(crops.__getitem__, range(6)):
        assert present.tolist() == ([True] * 4 if name == "a" else [False, True, False, True])
        assert torch.equal(image[:, 0, 0, 0], VALUES * present)


def test_a_drawn_part_of_the_channels_is_never_empty_and_every_number_comes(tmp_path: Path) -> None:
    crops = stream(four_channels(tmp_path), replace(MR_PLAN, channels="drawn"))
    seen: dict[str, Counter] = {"a": Counter(), "b": Counter()}
    for image, _, _, name, present in map(crops.__getitem__, range(600)):
        assert torch.equal(image, (VALUES * present)[:, None, None, None].expand(4, 4, 4, 4))
        seen[name][tuple(present.nonzero().flatten().tolist())] += 1
    assert len(seen["a"]) == 15
    by_number = Counter({n: sum(c for part, c in seen["a"].items() if len(part) == n) for n in (1, 2, 3, 4)})
    assert all(45 < count < 105 for count in by_number.values())  # 75 are to be expected
    assert set(seen["b"]) == {(1,), (3,), (1, 3)}


def test_one_channel_at_a_time_is_one_that_the_scan_has(tmp_path: Path) -> None:
    crops = stream(four_channels(tmp_path), replace(MR_PLAN, channels="one"))
    seen: dict[str, set] = {"a": set(), "b": set()}
    for image, _, _, name, present in map(crops.__getitem__, range(80)):
        assert (tuple(image.shape), present.tolist()) == ((1, 4, 4, 4), [True])
        seen[name].add(float(image[0, 0, 0, 0]))
    assert seen == {"a": {1, 2, 3, 4}, "b": {2, 4}}


@pytest.mark.parametrize("channels", ["drawn", "one"])
def test_drawn_channels_follow_from_the_number_of_the_crop_and_change_nothing_else(
    tmp_path: Path, channels: str
) -> None:
    store = four_channels(tmp_path)
    plan = replace(MR_PLAN, channels=channels)
    assert same(stream(store, plan)[17], stream(store, plan)[17])
    rest = list(batches(stream(store, plan), 3, 2, 4))
    assert [same(row, stream(store, plan)[n]) for n, row in enumerate(join(rest), start=6)] == [True] * 6
    whole = stream(store, MR_PLAN)
    assert all(stream(store, plan)[n][2:4] == whole[n][2:4] for n in range(9))
    one, other = (Crops(store, [store.cases["a"]], replace(plan, seed=seed)) for seed in (3, 4))
    assert not all(torch.equal(one[n][0], other[n][0]) for n in range(20))


def test_no_scan_is_read_completely_for_a_crop(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Store, name: str) -> np.ndarray:
        raise AssertionError(f"{name} was read whole")

    monkeypatch.setattr(Store, "image", refuse)
    monkeypatch.setattr(Store, "label_map", refuse)
    crops = stream(store, replace(PLAN, foreground=1.0))
    assert all((crops[number][1] > 0).any() for number in range(20) if crops[number][3] != "case_4")


def test_reading_ahead_has_open_files_of_its_own(store: Store) -> None:
    crops, expected = stream(store), [stream(store)[n] for n in range(60)]
    found = []
    for batch in batches(crops, 2, 0, 30):
        for name in VOXELS:  # as a validation does meanwhile
            np.testing.assert_array_equal(store.image(name), VOXELS[name][0])
        found += join([batch])
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


def test_a_stream_that_is_left_early_ends_its_thread(store: Store) -> None:
    before = threading.active_count()
    crops = batches(stream(store), 2, 0, 30)
    next(crops)
    crops.close()
    assert threading.active_count() == before
