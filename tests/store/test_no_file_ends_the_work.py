"""No single file prevents the others from being inspected and prepared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from voxmim.doctor import judge
from voxmim.doctor.inspect import inspect_source
from voxmim.store.format import Store
from voxmim.store.prepare import prepare

Maker = Callable[..., Path]


@pytest.mark.parametrize("kind", ["complex64", "complex128", "rgb"])
def test_complex_voxels_are_left_out_and_reported(tiny_source: Maker, tmp_path: Path, kind: str) -> None:
    source = tiny_source(cases=2)
    dtype = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]) if kind == "rgb" else np.dtype(kind)
    bad = source / "imagesTr" / "odd.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((20, 18, 16), dtype), np.eye(4)), bad)
    inspection = inspect_source(source, workers=1)
    result = prepare(source, tmp_path / "store", workers=1, quiet=True)
    for findings in (inspection.findings, result.findings):
        assert [(finding.file, finding.action) for finding in findings] == [(str(bad), "left out")]
        assert findings[0].reason.startswith(f"{bad}: ")
    assert list(Store(result.store).cases) == list(inspection.facts) == ["case_0", "case_1"]


def test_an_unexpected_error_is_a_finding(tiny_source: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_source(cases=3)
    real, count = judge.measure, []

    def fail(*given: object) -> object:
        count.append(given)
        if len(count) % 3 == 2:
            raise KeyError("what is that?")
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(judge, "measure", fail)
    findings = inspect_source(source, workers=1).findings
    assert [(finding.kind, finding.action) for finding in findings] == [("failed", "left out")]
    assert "what is that?" in findings[0].reason
    result = prepare(source, tmp_path / "store", workers=1, quiet=True)
    assert list(Store(result.store).cases) == ["case_0", "case_2"]


def test_a_process_that_dies_loses_one_case_only(tiny_source: Maker, tmp_path: Path) -> None:
    """Spawned processes import a module that kills the process that judges case_1."""
    source = tiny_source(cases=4)
    code = tmp_path / "code"
    code.mkdir()
    (code / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'multiprocessing.spawn' in ' '.join(sys.orig_argv):\n"
        "    import os, signal\n"
        "    from voxmim.doctor import inspect, judge\n"
        "    real = judge._judge\n"
        "    def harm(case, *rest):\n"
        "        if case.name == 'case_1': os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return real(case, *rest)\n"
        "    judge._judge = harm\n"
    )
    paths = [str(code), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        inspection = inspect_source(source, workers=2)
        result = prepare(source, tmp_path / "store", (1.0, 1.0, 1.0), "ct", workers=2, quiet=True)
    for findings in (inspection.findings, result.findings):
        assert [(Path(finding.file).name, finding.kind) for finding in findings] == [("case_1.nii.gz", "failed")]
        assert "its process died" in findings[0].reason
    assert list(Store(result.store).cases) == list(inspection.facts) == ["case_0", "case_2", "case_3"]


def test_a_voxel_size_that_would_make_too_many_voxels_is_left_out(tiny_source: Maker, tmp_path: Path) -> None:
    source = tiny_source(cases=3)
    bad = source / "imagesTr" / "metres.nii.gz"
    scan = np.random.default_rng(0).integers(-900, 900, (20, 18, 16)).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.diag([1000.0, 1000, 1000, 1])), bad)
    result = prepare(source, tmp_path / "store", workers=1, quiet=True)
    assert [(finding.file, finding.kind) for finding in result.findings] == [(str(bad), "huge")]
    assert list(Store(result.store).cases) == ["case_0", "case_1", "case_2"]
