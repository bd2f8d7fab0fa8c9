"""Damaged files are read or refused in one sentence, without a crash, a hang or excessive memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dicom_files import places, voxels, write_enhanced, write_series
from voxmim.doctor.inspect import inspect_source
from voxmim.errors import ScanError
from voxmim.images.formats.dicom import find_series
from voxmim.images.volume import open_image, read_volume
from voxmim.store.format import Store
from voxmim.store.prepare import prepare
from voxmim.store.verify import verify

SLOW = 2.0  # seconds of CPU time for a scan of about a hundred voxels
MEMORY = 4 << 30  # bytes: only an allocation by a damaged header needs more

ARRAY = np.random.default_rng(0).integers(0, 500, (4, 5, 6)).astype(np.int16)


def _nifti(kind: type, name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        nib.save(kind(ARRAY.astype(np.float32), np.diag([1.0, 2, 3, 1])), folder / name)
        return folder / name.replace(".img", ".hdr")

    return write


def _itk(name: str, compress: bool) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(folder / name), useCompression=compress)
        return folder / name

    return write


WRITERS: dict[str, Callable[[Path], Path]] = {
    "NIfTI-1": _nifti(nib.Nifti1Image, "a.nii"),
    "NIfTI-1 zipped": _nifti(nib.Nifti1Image, "a.nii.gz"),
    "NIfTI-1 pair": _nifti(nib.Nifti1Pair, "a.img"),
    "NIfTI-2": _nifti(nib.Nifti2Image, "a.nii"),
    "NRRD": _itk("a.nrrd", False),
    "NRRD zipped": _itk("a.nrrd", True),
    "NRRD header": _itk("a.nhdr", False),
    "MetaImage": _itk("a.mha", False),
    "MetaImage zipped": _itk("a.mha", True),
    "MetaImage header": _itk("a.mhd", False),
    "DICOM": lambda folder: write_series(folder, voxels(2))[0],
    "DICOM zipped": lambda folder: write_series(folder, voxels(2), compress=True)[0],
    "enhanced DICOM": lambda folder: write_enhanced(folder / "a.dcm", voxels(3), places(3)),
}  # fmt: skip


READERS: list[Callable[[Path], object]] = [
    open_image,
    read_volume,
    lambda path: read_volume(path.parent),
    lambda path: find_series(path.parent),
]


def error_of(read: Callable[[Path], object], path: Path) -> ScanError | None:
    try:
        read(path)
    except ScanError as error:
        return error
    return None


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Limit this process to a few GiB more than it uses."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def damaged(whole: bytes, data: st.DataObject) -> bytes:
    """Truncate the bytes, or replace some of them, mostly in the header."""
    if data.draw(st.booleans()):
        return whole[: data.draw(st.integers(0, len(whole) - 1))]
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.one_of(st.integers(0, min(600, len(whole)) - 1), st.integers(0, len(whole) - 1)))
        new = data.draw(
            st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 4, b"9999", b"-1", b"\0" * 4]))
        )
        content[place : place + len(new)] = new
    return bytes(content)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_bytes_are_read_or_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path)
    whole = path.read_bytes()

    @settings(max_examples=50, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def check(data: st.DataObject) -> None:
        path.write_bytes(damaged(whole, data))
        start = time.process_time()
        for sentence in map(str, filter(None, map(error_of, READERS, [path] * len(READERS)))):
            assert sentence.startswith(str(tmp_path))
            assert "\n" not in sentence
        assert time.process_time() - start < SLOW

    check()


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("kind", ["NIfTI-1 zipped", "NIfTI-2", "NIfTI-1 pair", "NRRD", "MetaImage", "DICOM"])
def test_a_folder_with_a_damaged_file_is_inspected_and_prepared_without_it(kind: str, tmp_path: Path) -> None:
    source, count = tmp_path / "source", 0
    (source / "bad").mkdir(parents=True)
    good = source / "good.nii"
    nib.save(nib.Nifti1Image((ARRAY + 1).astype(np.float32), np.eye(4)), good)
    path = WRITERS[kind](source / "bad")
    whole = path.read_bytes()

    @settings(max_examples=8, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def check(data: st.DataObject) -> None:
        nonlocal count
        count += 1
        path.write_bytes(damaged(whole, data))
        start = time.process_time()
        inspection = inspect_source(source, workers=1)
        assert time.process_time() - start < SLOW
        for finding in inspection.findings:
            assert finding.reason.startswith(str(source))
            assert "\n" not in finding.reason
        start, out = time.process_time(), tmp_path / f"store_{count}"
        result = prepare(source, out, (1.0, 2.0, 3.0), workers=1, quiet=True)
        assert time.process_time() - start < SLOW
        assert result.findings == inspection.findings
        assert verify(out, workers=1) == []
        assert any(case.image == (str(good),) for case in Store(out).cases.values())

    check()
