from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from voxmim.doctor.reading import read_label
from voxmim.errors import ScanError, SourceError, StoreError
from voxmim.images.geometry import resample_labels
from voxmim.images.volume import Volume, read_volume, write_volume
from voxmim.store import prepare as prepare_module
from voxmim.store.format import Preparation, Store
from voxmim.store.prepare import PreparedScan, prepare, prepare_scan

Maker = Callable[..., Path]
CT = Preparation((1.0, 1.0, 1.0), "ct", ("CT",))
OBLIQUE = np.array([[-0.96 * 1.2, 0, 0.28 * 2, 10], [0, 1.1, 0, -20], [-0.28 * 1.2, 0, -0.96 * 2, 30], [0, 0, 0, 1.0]])


def run(source: Path, out: Path, **options: object) -> prepare_module.PrepareResult:
    return prepare(source, out, **{"workers": 1, "quiet": True, **options})  # type: ignore[arg-type]


def prepare_label(file: Path, scan: PreparedScan) -> np.ndarray:
    return resample_labels(read_label(file, scan.original, scan.path), scan.original, scan.grid)


def modify(file: Path, how: Callable[[np.ndarray], np.ndarray]) -> None:
    volume = read_volume(file)
    write_volume(file, Volume(how(volume.array), volume.affine))


# One scan in memory


def test_a_scan_in_ras_at_the_requested_spacing_is_only_cropped(tiny_source: Maker) -> None:
    source = tiny_source(cases=1)
    raw = read_volume(source / "imagesTr" / "case_0.nii.gz")
    scan = prepare_scan([source / "imagesTr" / "case_0.nii.gz"], CT)
    start = np.rint(scan.grid.affine[:3, 3]).astype(int)
    box = tuple(slice(s, s + n) for s, n in zip(start, scan.grid.shape, strict=True))
    np.testing.assert_array_equal(scan.image, np.maximum(raw.array[(slice(None), *box)], -1024))
    assert scan.image.dtype == np.int16
    assert scan.grid.shape < raw.shape
    label = prepare_label(source / "labelsTr" / "case_0.nii.gz", scan)
    np.testing.assert_array_equal(label, read_volume(source / "labelsTr" / "case_0.nii.gz").array[0][box])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 1.3, 2.2)])
def test_scan_and_label_stay_aligned_and_the_label_can_be_resampled_back(
    tiny_source: Maker, spacing: tuple[float, float, float]
) -> None:
    source = tiny_source(cases=1, shape=(40, 36, 30), affine=OBLIQUE)
    scan = prepare_scan([source / "imagesTr" / "case_0.nii.gz"], replace(CT, spacing=spacing))
    label = prepare_label(source / "labelsTr" / "case_0.nii.gz", scan)
    assert scan.image.shape[1:] == label.shape == scan.grid.shape
    np.testing.assert_allclose(scan.grid.spacing, spacing)
    assert np.all(np.diag(scan.grid.affine) > 0)
    assert scan.original.shape == (40, 36, 30)
    np.testing.assert_allclose(scan.original.affine, OBLIQUE, atol=1e-5)
    for value, hu in ((1, 200), (2, -150)):
        assert np.median(scan.image[0][label == value]) == pytest.approx(hu, abs=10)
    back = resample_labels(label, scan.grid, scan.original)
    truth = read_volume(source / "labelsTr" / "case_0.nii.gz").array[0]
    for value in (1, 2):
        both = np.sum((back == value) & (truth == value))
        assert 2 * both / (np.sum(back == value) + np.sum(truth == value)) > 0.9


def test_mr_channels_may_be_in_one_file_or_several(tmp_path: Path, write_scan: Maker) -> None:
    rng = np.random.default_rng(0)
    array = np.stack([rng.normal(300, 20, (12, 13, 14)), rng.normal(9, 2, (12, 13, 14))]).astype(np.float32)
    files = [write_scan(tmp_path / f"{i}.nii.gz", array[i], OBLIQUE) for i in range(2)]
    both = write_scan(tmp_path / "both.nii.gz", array, OBLIQUE)
    mr = Preparation((1.2, 1.1, 2.0), "mr", ("T1", "T2"))
    scan, other = prepare_scan(files, mr), prepare_scan([both], mr)
    np.testing.assert_array_equal(scan.image, other.image)
    assert scan.image.dtype == np.float16
    np.testing.assert_allclose(scan.image.astype(float).mean(axis=(1, 2, 3)), 0, atol=0.1)
    assert scan.intensities[0].centre == pytest.approx(300, rel=0.02)
    assert scan.intensities[1].scale == pytest.approx(2, rel=0.1)
    with pytest.raises(ScanError, match=r"a 3D volume of 1 channel"):
        prepare_scan([both], replace(mr, channels=("T1",)))
    with pytest.raises(ScanError, match=r"2 files for 3 channel"):
        prepare_scan(files, replace(mr, channels=("T1", "T2", "T3")))
    write_scan(files[1], array[1], np.eye(4))
    with pytest.raises(ScanError, match=r"1\.nii\.gz: its affine puts a corner"):
        prepare_scan(files, mr)


# A source into a store


def test_a_cohort_becomes_a_store(tiny_source: Maker, tmp_path: Path) -> None:
    source = tiny_source(cases=4, unlabelled=1, affine=np.diag([1.204, 1.1, 1.3, 1]))
    result = run(source, tmp_path / "store")
    assert (result.prepared, result.skipped_already, result.failed, result.findings) == (5, 0, [], [])
    store = Store(result.store)
    assert store.preparation == Preparation((1.204, 1.1, 1.3), "ct", ("CT",))
    assert (store.name, store.labels) == ("tiny", {1: "bone", 2: "fat"})
    assert {case.split for case in store.cases.values()} == {"train", "val", "test", "unlabelled"}
    for case in store.cases.values():
        scan = prepare_scan(case.image, store.preparation)
        np.testing.assert_array_equal(store.image(case.name), scan.image)
        assert case.shape == scan.grid.shape
        if case.label is not None:
            np.testing.assert_array_equal(store.label_map(case.name), prepare_label(Path(case.label), scan))
            assert set(case.counts) == {1, 2}


def test_several_processes_write_the_same_store(tiny_source: Maker, tmp_path: Path) -> None:
    source = tiny_source(cases=4)
    (source / "imagesTr" / "case_2.nii.gz").write_bytes(b"junk")
    alone, together = (run(source, tmp_path / f"store_{n}", workers=n) for n in (1, 2))
    assert Store(alone.store).digest() == Store(together.store).digest()
    assert (together.prepared, [name for name, _ in together.failed]) == (3, ["case_2"])


def test_prepare_continues_where_it_stopped(
    tiny_source: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tiny_source(cases=5), tmp_path / "store"
    real, calls = prepare_module._prepare_case, []

    def stop_at_third(case: object, **rest: object) -> object:
        calls.append(case)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(case, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(prepare_module, "_prepare_case", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(source, out)
    assert list(Store(out).cases) == ["case_0", "case_1"]
    untouched = (out / "images" / "case_0.b2nd").stat().st_mtime_ns
    result = run(source, out)
    assert (result.prepared, result.skipped_already) == (3, 2)
    assert (out / "images" / "case_0.b2nd").stat().st_mtime_ns == untouched
    assert Store(out).digest() == Store(run(source, tmp_path / "other").store).digest()
    assert run(source, out).skipped_already == 5


def test_prepared_cases_are_found_without_a_finished_index(tiny_source: Maker, tmp_path: Path) -> None:
    source, out = tiny_source(cases=3), tmp_path / "store"
    digest = Store(run(source, out).store).digest()
    index = json.loads((out / "index.json").read_text())
    (out / "index.json").write_text(json.dumps({**index, "cases": []}))
    assert run(source, out).skipped_already == 3
    assert Store(out).digest() == digest


def test_changes_of_the_source_are_followed(tiny_source: Maker, tmp_path: Path) -> None:
    source, out = tiny_source(cases=4, splits={"train": ["case_0", "case_1"]}), tmp_path / "store"
    (source / "labelsTr" / "case_1.nii.gz").rename(tmp_path / "later.nii.gz")
    run(source, out)
    (tmp_path / "later.nii.gz").rename(source / "labelsTr" / "case_1.nii.gz")
    (source / "splits.json").write_text(json.dumps({"val": ["case_0"], "train": ["case_1", "case_2"]}))
    result = run(source, out)
    assert (result.prepared, result.skipped_already) == (2, 1)
    assert {name: case.split for name, case in Store(out).cases.items()} == {
        "case_0": "val",
        "case_1": "train",
        "case_2": "train",
    }
    assert Store(out).cases["case_1"].counts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spacing": (2, 1, 1)}, r"has spacing \(1.0, 1.0, 1.0\), but \(2.0, 1.0, 1.0\) is requested"),
        ({"intensity": "mr"}, "has intensity ct, but mr is requested"),
        ({"intensity": "pet"}, "intensity 'pet' is not known"),
        ({"spacing": (0, 1, 1)}, "must be three sizes above 0"),
    ],
)
def test_a_store_with_another_preparation_is_refused_and_not_changed(
    tiny_source: Maker, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    source, out = tiny_source(cases=2), tmp_path / "store"
    before = Store(run(source, out).store).digest()
    with pytest.raises(StoreError, match=message):
        run(source, out, **options)
    assert Store(out).digest() == before
    assert run(source, out, spacing=(1, 1, 1), intensity="ct").skipped_already == 2


# Bad input


def truncate(source: Path) -> None:
    file = source / "imagesTr" / "case_1.nii.gz"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def with_nan(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32)
    array[0, 4, 4, 4] = np.nan
    return array


IMAGE, LABEL = Path("imagesTr/case_1.nii.gz"), Path("labelsTr/case_1.nii.gz")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"imagesTr/case_1\.nii\.gz: the file is cut off"),
        (lambda s: (s / IMAGE).write_bytes(b"junk"), r"imagesTr/case_1\.nii\.gz: cannot be read as an image"),
        (lambda s: modify(s / IMAGE, with_nan), r"imagesTr/case_1\.nii\.gz: 1 voxel not finite"),
        (lambda s: modify(s / IMAGE, np.zeros_like), r"imagesTr/case_1\.nii\.gz: every voxel has the value 0"),
        (lambda s: modify(s / IMAGE, lambda a: np.concatenate([a, a])), r"a 3D volume of 1 channel is expected"),
    ],
    ids=["cut off", "junk", "nan", "constant", "4d"],
)
def test_a_bad_case_is_reported_and_left_out(
    tiny_source: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], message: str
) -> None:
    source = tiny_source(cases=3)
    damage(source)
    result = run(source, tmp_path / "store", quiet=False)
    assert list(Store(result.store).cases) == ["case_0", "case_2"]
    assert [name for name, _ in result.failed] == ["case_1"]
    assert re.search(message, result.failed[0][1])
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert re.search(message, lines[0])
    assert run(source, tmp_path / "store").skipped_already == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: modify(s / LABEL, lambda a: a[:, 1:]), r"labelsTr/case_1\.nii\.gz: its shape .* differs"),
        (lambda s: modify(s / LABEL, lambda a: np.where(a == 2, 9, a)), r"label value 9 is not listed in dataset"),
        (lambda s: modify(s / LABEL, lambda a: a * np.float32(0.5)), r"labelsTr/case_1.*not all whole numbers"),
        (
            lambda s: write_volume(s / LABEL, Volume(read_volume(s / LABEL).array, np.diag([-1.0, 1, 1, 1]))),
            r"labelsTr/case_1\.nii\.gz: its affine puts a corner",
        ),
    ],
    ids=["shape", "unknown label", "fractions", "affine"],
)
def test_a_bad_label_map_is_left_out_and_its_scan_kept(
    tiny_source: Maker, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    source = tiny_source(cases=3)
    repaired = (source / LABEL).read_bytes()
    damage(source)
    result = run(source, tmp_path / "store")
    store = Store(result.store)
    assert (result.prepared, result.failed, result.unresolved) == (3, [], [])
    assert [case.name for case in store.cases.values() if case.label is None] == ["case_1"]
    assert store.findings == result.findings
    (finding,) = result.findings
    assert (finding.file, finding.action) == (str(source / LABEL), "left out")
    assert re.search(message, finding.reason)
    (source / LABEL).write_bytes(repaired)  # the next run detects the change
    result = run(source, tmp_path / "store")
    assert (result.prepared, result.findings) == (1, [])
    assert Store(result.store).cases["case_1"].counts


def test_a_source_without_valid_cases_is_refused(tiny_source: Maker, tmp_path: Path) -> None:
    source = tiny_source(cases=2)
    for file in (source / "imagesTr").iterdir():
        modify(file, np.zeros_like)
    with pytest.raises(StoreError, match=r"none of 2 cases could be prepared; case_0: .*every voxel"):
        run(source, tmp_path / "store", spacing=(1, 1, 1))
    for file in (source / "imagesTr").iterdir():
        file.write_bytes(b"junk")
    with pytest.raises(StoreError, match="none of 2 scans can be read"):
        run(source, tmp_path / "other")


def test_a_source_that_is_missing_leaves_no_store(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no such folder"):
        run(tmp_path / "gone", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_label_value_of_a_single_case_is_reported(
    tiny_source: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny_source(cases=3)
    (source / "dataset.json").unlink()
    modify(source / LABEL, lambda a: np.where(a == 2, 9, a).astype(np.uint8))
    result = run(source, tmp_path / "store", quiet=False)
    assert [finding.kind for finding in result.findings] == ["rare label"]
    assert re.search(r"labelsTr/case_1\.nii\.gz: no other case has label value 9", result.findings[0].reason)
    assert "no other case has label value 9" in capsys.readouterr().err
    assert Store(result.store).labels == {1: "label 1", 2: "label 2", 9: "label 9"}


def test_an_empty_label_map_is_reported(tiny_source: Maker, tmp_path: Path) -> None:
    source = tiny_source(cases=2)
    modify(source / LABEL, np.zeros_like)
    result = run(source, tmp_path / "store")
    assert result.prepared == 2
    assert [finding.reason.split(": ")[1] for finding in result.findings] == ["the label map is empty."]


def test_a_quiet_prepare_prints_nothing(tiny_source: Maker, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tiny_source(cases=2)
    truncate(source)
    run(source, tmp_path / "store")
    assert capfd.readouterr() == ("", "")


def test_the_grid_of_a_prepared_scan_covers_the_body(tiny_source: Maker) -> None:
    source = tiny_source(cases=1, affine=OBLIQUE)
    scan = prepare_scan([source / "imagesTr" / "case_0.nii.gz"], replace(CT, spacing=(2.0, 2.0, 2.0)))
    covered = resample_labels(np.ones(scan.grid.shape, dtype=np.uint8), scan.grid, scan.original)
    body = read_volume(source / "imagesTr" / "case_0.nii.gz").array[0] > -500
    assert np.all(covered[body] == 1)


@pytest.mark.parametrize(
    ("key", "value", "kept"), [("licence", "CC0", "CC0"), ("license", "CC0", "CC0"), ("note", "CC0", "")]
)
def test_the_licence_of_the_data_set_is_kept(
    tiny_source: Callable[..., Path], tmp_path: Path, key: str, value: str | None, kept: str
) -> None:
    source = tiny_source(cases=1)
    dataset = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps(dataset | {key: value}))
    out = prepare(source, tmp_path / "store", workers=1, quiet=True).store
    assert Store(out).licence == kept
    index = json.loads((out / "index.json").read_text())
    del index["licence"]  # as in the first stores
    (out / "index.json").write_text(json.dumps(index))
    assert Store(out).licence == ""


# Regions, and channels that are missing


def write_sequences(source: Path, intensity: str = "MR") -> Path:
    """Write case 0 with both channels and case 1 without the first; both labelled, with two regions."""
    rng = np.random.default_rng(0)
    label = np.zeros((1, 12, 13, 14), np.uint8)
    label[0, 3:9, 3:9, 3:9], label[0, 5:8, 5:8, 5:8] = 1, 2
    for case, channels in (("case_0", (0, 1)), ("case_1", (1,))):
        for channel in channels:
            scan = np.rint(rng.normal(300, 40, (1, 12, 13, 14))).astype(np.int16)
            write_volume(source / "imagesTr" / f"{case}_000{channel}.nii.gz", Volume(scan, np.eye(4)))
        write_volume(source / "labelsTr" / f"{case}.nii.gz", Volume(label, np.eye(4)))
    dataset = {"channel_names": {"0": f"{intensity} a", "1": f"{intensity} b"}, "labels": {"rim": 1, "core": 2},
               "regions": {"whole": [1, 2], "core": [2]}}  # fmt: skip
    (source / "dataset.json").write_text(json.dumps(dataset))
    return source


@pytest.mark.parametrize(("intensity", "empty"), [("MR", 0), ("CT", -1024)])
def test_a_missing_channel_is_empty_and_reported_once(tmp_path: Path, intensity: str, empty: int) -> None:
    source = write_sequences(tmp_path / "source", intensity)
    result = run(source, tmp_path / "store", spacing=(1.0, 1.0, 1.0))
    store = Store(tmp_path / "store")
    assert {case.name: case.missing for case in store.cases.values()} == {"case_0": (), "case_1": (0,)}
    image = store.image("case_1")
    assert image.shape == (2, 12, 13, 14)  # the missing channel does not influence the crop
    assert (image[0] == empty).all()
    alone = prepare_scan([source / "imagesTr" / "case_1_0001.nii.gz"], replace(store.preparation, channels=("b",)))
    np.testing.assert_array_equal(image[1], alone.image[0])
    reasons = [finding.reason for finding in result.findings if "lacks" in finding.reason]
    assert len(reasons) == 1
    assert reasons[0].endswith(f"case case_1 lacks {intensity} a, and serves pre-training only.")


def test_a_channel_added_later_is_prepared(tmp_path: Path) -> None:
    source = write_sequences(tmp_path / "source")
    run(source, tmp_path / "store")
    both = read_volume(source / "imagesTr" / "case_0_0000.nii.gz")
    write_volume(source / "imagesTr" / "case_1_0000.nii.gz", both)
    result = run(source, tmp_path / "store")
    assert (result.prepared, result.skipped_already, result.findings) == (1, 1, [])
    assert Store(tmp_path / "store").cases["case_1"].missing == ()


def test_regions_are_stored_and_updated(tmp_path: Path) -> None:
    source = write_sequences(tmp_path / "source")
    run(source, tmp_path / "store")
    assert list(Store(tmp_path / "store").regions.items()) == [("whole", (1, 2)), ("core", (2,))]
    dataset = json.loads((source / "dataset.json").read_text())
    (source / "dataset.json").write_text(json.dumps({**dataset, "regions": {"all": [1, 2]}}))
    assert run(source, tmp_path / "store").prepared == 0
    assert Store(tmp_path / "store").regions == {"all": (1, 2)}
