"""Random headers are read or refused in one sentence, without a crash, a hang or excessive memory.

`VOXMIM_FUZZ=1000` tries 1000 headers of each kind instead of a few.
"""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from dicom_files import places, voxels, write_enhanced, write_series
from voxmim.errors import ScanError
from voxmim.images.volume import open_image

COUNT = int(os.environ.get("VOXMIM_FUZZ", 25))
SHAPE = (96, 96, 64)
SLOW = 3.0  # seconds of CPU time
ARRAY = np.random.default_rng(0).integers(0, 500, SHAPE).astype(np.int16)
LIMIT = 2 * ARRAY.size * 4 + (24 << 20)  # bytes: twice the voxels as float32, and the readers' own memory
NUMBERS = [0, 1, -1, 2, 7, 255, 348, 540, 4096, 32767, -32768, 2**31 - 1, 1e10, -1e-30, 1e300, np.nan, np.inf, 0.5]
WORDS = [
    b"", b"0", b"-1", b"1e300", b"nan", b"99999999999", b"4294967296", b"x" * 300, b"\xff\xfe", b"LOCAL", b"3 3 3",
    b"96 96 64 2", b"MET_DOUBLE", b"double", b"complex", b"gzip", b"True", b"False", b"none (1,0) (", b"%d",
]  # fmt: skip

Rng = np.random.Generator


def fuzz_nifti(kind: type, zipped: bool) -> Callable[[Path, Rng], Path]:
    def write(folder: Path, rng: Rng) -> Path:
        image = kind(ARRAY, np.diag([1.0, 2, 3, 1]))
        content, struct = image.to_bytes(), image.header.structarr.dtype
        header = np.frombuffer(content[: struct.itemsize], struct).copy()
        for field in rng.choice(struct.names, rng.integers(1, 5)):
            value = rng.choice(NUMBERS)
            with np.errstate(all="ignore"):
                if header[field].dtype.kind == "S":
                    header[field] = rng.bytes(4)
                elif header[field][0].ndim and rng.random() < 0.7:
                    header[field][0, rng.integers(header[field].shape[1])] = _fitting(value, header[field].dtype)
                else:
                    header[field] = _fitting(value, header[field].dtype)
        content = header.tobytes() + content[struct.itemsize :]
        file = folder / ("a.nii.gz" if zipped else "a.nii")
        file.write_bytes(gzip.compress(content, 1) if zipped else content)
        return file

    return write


def _fitting(value: float, dtype: np.dtype) -> np.generic:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return dtype.type(
            int(
                np.clip(
                    np.nan_to_num(value, posinf=2.0**62, neginf=-(2.0**62)),
                    max(info.min, -(2**62)),
                    min(info.max, 2**62),
                )
            )
        )
    return dtype.type(value)


def fuzz_text(name: str, compress: bool) -> Callable[[Path, Rng], Path]:
    def write(folder: Path, rng: Rng) -> Path:
        file = folder / name
        sitk.WriteImage(sitk.GetImageFromArray(ARRAY.transpose()), str(file), useCompression=compress)
        content = file.read_bytes()
        end = content.index(b"\n\n") if b"NRRD" in content[:8] else content.index(b"\n", content.index(b"DataFile"))
        lines = content[:end].split(b"\n")
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(len(lines)))
            sign = b":" if b":" in lines[at] else b"="
            key, _, value = lines[at].partition(sign)
            parts = value.split() or [b""]
            parts[rng.integers(len(parts))] = WORDS[rng.integers(len(WORDS))]
            change = rng.integers(4)
            lines[at] = [key + sign + b" " + b" ".join(parts), key + sign + b" " + WORDS[rng.integers(len(WORDS))],
                         b"", lines[rng.integers(len(lines))]][change]  # fmt: skip
        file.write_bytes(b"\n".join(lines) + content[end:])
        return file

    return write


def fuzz_bytes(write: Callable[[Path], Path]) -> Callable[[Path, Rng], Path]:
    def fuzzed(folder: Path, rng: Rng) -> Path:
        file = write(folder)
        content = bytearray(file.read_bytes())
        for _ in range(rng.integers(1, 8)):
            at, new = int(rng.integers(128, min(3000, len(content)))), rng.bytes(int(rng.integers(1, 5)))
            content[at : at + len(new)] = new if rng.random() < 0.5 else b"\xff" * len(new)
        file.write_bytes(content[: rng.integers(len(content))] if rng.random() < 0.1 else content)
        return file if file.name == "a.dcm" else folder

    return fuzzed


KINDS: dict[str, Callable[[Path, Rng], Path]] = {
    "NIfTI-1": fuzz_nifti(nib.Nifti1Image, False),
    "NIfTI-1 zipped": fuzz_nifti(nib.Nifti1Image, True),
    "NIfTI-2": fuzz_nifti(nib.Nifti2Image, False),
    "NRRD": fuzz_text("a.nrrd", False),
    "NRRD zipped": fuzz_text("a.nrrd", True),
    "MetaImage": fuzz_text("a.mha", False),
    "MetaImage zipped": fuzz_text("a.mha", True),
    "DICOM": fuzz_bytes(lambda folder: write_series(folder, voxels(3))[1]),
    "DICOM zipped": fuzz_bytes(lambda folder: write_series(folder, voxels(3), compress=True)[1]),
    "enhanced DICOM": fuzz_bytes(lambda folder: write_enhanced(folder / "a.dcm", voxels(3), places(3))),
}  # fmt: skip


def memory(field: str) -> int:
    """Memory of this process in bytes: current (``VmRSS``) or peak (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def error_of(path: Path) -> str | None:
    try:
        volume = open_image(path).read()
    except ScanError as error:
        return str(error)
    assert np.all(np.isfinite(volume.affine))
    return None


@pytest.mark.timeout(max(300, COUNT))
@pytest.mark.parametrize("kind", KINDS)
def test_any_header_is_read_or_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    read = 0
    for seed in range(COUNT):
        path = KINDS[kind](tmp_path, np.random.default_rng(seed))
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before, start = memory("VmRSS"), time.process_time()
        sentence = error_of(path)
        read += sentence is None
        assert sentence is None or (sentence.startswith(str(tmp_path)) and "\n" not in sentence), (seed, sentence)
        assert time.process_time() - start < SLOW, seed
        assert memory("VmHWM") - before < LIMIT, seed
    assert read > 0
