"""Preparing a whole-body scan takes little more memory than the scan."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from voxmim.store.format import Store

SHAPE, SPACING = (512, 512, 1200), (0.8, 0.8, 1.0)
FLOAT32 = 4 * np.prod(SHAPE, dtype=int)
CODE = """
import resource, sys
from voxmim.store.prepare import prepare

if __name__ == "__main__":
    base = 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (base + int(sys.argv[3]),) * 2)
    result = prepare(sys.argv[1], sys.argv[2], (4.0, 4.0, 4.0), "ct", workers=1, quiet=True)
    print(result.prepared, result.failed)
"""


def write_whole_body(file: Path) -> None:
    """Write an elliptic body whose intensity increases over eight slices and repeats."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(SHAPE)
    header.set_zooms(SPACING)
    header.set_sform(np.diag([*SPACING, 1]), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE[:2]), indexing="ij")
    slices = [np.where(x**2 + 2 * y**2 < 0.8, 40 + 5 * k, -1000).astype(np.int16).tobytes("F") for k in range(8)]
    file.parent.mkdir(parents=True)
    with gzip.open(file, "wb", compresslevel=1) as written:
        written.write(header.binaryblock + bytes(4))
        for z in range(SHAPE[2]):
            written.write(slices[z % 8])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_a_scan_of_512_x_512_x_1200_needs_less_than_two_copies(tmp_path: Path) -> None:
    write_whole_body(tmp_path / "scans" / "body.nii.gz")
    command = [sys.executable, "-c", CODE, tmp_path / "scans", tmp_path / "store", str(2 * FLOAT32)]
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert process.stdout.strip() == "1 []", process.stderr
    image = Store(tmp_path / "store").image("body")
    assert image.shape[3] == 300
    assert image[0, image.shape[1] // 2, image.shape[2] // 2].mean() == pytest.approx(57.5, abs=1)
