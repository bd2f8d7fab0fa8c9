"""The Brain Imaging Data Structure: sessions are cases, suffixes channels, patients groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from source_folders import fill
from voxmim.errors import SourceError
from voxmim.sources import Source, open_source

DESCRIPTION = {"Name": "heads", "License": "CC0", "BIDSVersion": "1.8.0"}


def opened(path: Path, *files: str) -> Source:
    return open_source(fill(path, *files, dataset_description=DESCRIPTION))


def test_a_single_suffix_gives_one_channel(tmp_path: Path) -> None:
    files = ["sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz", "sub-02/ses-2/anat/sub-02_ses-2_T1w.nii.gz",
             "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_T1w.json", "sub-01/func/sub-01_task-x_bold.nii.gz",
             "sub-01/anat/sub-01_mod-T1w_defacemask.nii.gz", "participants.tsv"]  # fmt: skip
    source = opened(tmp_path, *files)
    assert (source.name, source.licence, source.channels, source.labels) == ("heads", "CC0", ("T1w",), {})
    assert [(case.name, case.group, case.split) for case in source.cases] == [
        ("sub-01", "sub-01", "unlabelled"), ("sub-02_ses-1", "sub-02", "unlabelled"),
        ("sub-02_ses-2", "sub-02", "unlabelled"),
    ]  # fmt: skip
    assert source.cases[0].images == (tmp_path / files[2],)


def test_several_suffixes_are_channels_and_some_may_be_missing(tmp_path: Path) -> None:
    source = opened(tmp_path, "sub-01/anat/sub-01_acq-3d_T1w.nii", "sub-01/anat/sub-01_FLAIR.nii.gz",
                    "sub-02/anat/sub-02_T1w.nii.gz")  # fmt: skip
    assert source.channels == ("FLAIR", "T1w")
    one, two = source.cases
    assert [image.name for image in one.images] == ["sub-01_FLAIR.nii.gz", "sub-01_acq-3d_T1w.nii"]
    assert (one.missing, two.missing) == ((), (0,))


def test_runs_of_one_session_are_separate_cases_of_one_patient(tmp_path: Path) -> None:
    anat = "sub-01/ses-1/anat/sub-01_ses-1"
    source = opened(tmp_path, *(f"{anat}_run-{run}_{suffix}.nii" for run in (1, 2) for suffix in ("T1w", "T2w")))
    assert [(case.name, len(case.images)) for case in source.cases] == [
        ("sub-01_ses-1_run-1", 2), ("sub-01_ses-1_run-2", 2)]  # fmt: skip
    assert {case.group for case in source.cases} == {"sub-01"}


def test_a_case_with_two_images_of_the_same_suffix_is_left_out(tmp_path: Path) -> None:
    files = ["sub-01/anat/sub-01_T1w.nii", "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_T1w.nii"]
    source = opened(tmp_path, *files)
    assert [case.name for case in source.cases] == ["sub-02"]
    (finding,) = source.findings
    assert "two images of one suffix (sub-01_T1w.nii, sub-01_T1w.nii.gz)" in finding.reason


def test_label_maps_are_matched_by_session_and_run(tmp_path: Path) -> None:
    images = ["sub-01/anat/sub-01_T1w.nii", "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii",
              "sub-03/anat/sub-03_run-1_T1w.nii", "sub-03/anat/sub-03_run-2_T1w.nii",
              "sub-04/anat/sub-04_T1w.nii"]  # fmt: skip
    labels = {
        "sub-01": "derivatives/manual/sub-01/anat/sub-01_label-lesion_mask.nii.gz",
        "sub-02_ses-1": "derivatives/a/b/sub-02/ses-1/sub-02_ses-1_T1w_desc-fine_dseg.nii.gz",
        "sub-03_run-2": "derivatives/sub-03_run-2_space-orig_seg.nii.gz",
    }
    source = opened(tmp_path, *images, *labels.values(), "derivatives/sub-04_space-MNI152_dseg.nii")
    label_of = {case.name: case.label for case in source.cases if case.label is not None}
    assert label_of == {name: tmp_path / label for name, label in labels.items()}
    assert [(Path(finding.file).name, finding.action) for finding in source.findings] == [
        ("sub-04_space-MNI152_dseg.nii", "left out")]  # fmt: skip


def test_of_several_label_maps_the_best_match_is_used_or_none(tmp_path: Path) -> None:
    at = "derivatives/x/sub-0{}_{}.nii"
    labels = [
        at.format(*named) for named in ((1, "desc-brain_mask"), (1, "dseg"), (2, "label-a_mask"), (2, "label-b_mask"))
    ]
    source = opened(tmp_path, "sub-01/anat/sub-01_T1w.nii", "sub-02/anat/sub-02_T1w.nii", *labels)
    assert [case.label for case in source.cases] == [tmp_path / labels[1], None]
    assert {finding.file for finding in source.findings} == {str(tmp_path / label) for label in labels} - {
        str(tmp_path / labels[1])
    }
    assert all(finding.action == "left out" and finding.file in finding.reason for finding in source.findings)


@pytest.mark.parametrize(("label", "why"), [("sub-09_dseg.nii", "has no scan"), ("sub-01_dseg.nii", "fits several")])
def test_a_label_map_that_matches_no_scan_or_several_is_reported(tmp_path: Path, label: str, why: str) -> None:
    runs = [f"sub-01/anat/sub-01_run-{run}_T1w.nii" for run in (1, 2)]
    source = opened(tmp_path, *runs, f"derivatives/{label}")
    assert [case.label for case in source.cases] == [None, None]
    (finding,) = source.findings
    assert why in finding.reason


def test_sessions_of_one_patient_are_in_the_same_split(tmp_path: Path) -> None:
    files = []
    for patient in range(12):
        for session in (1, 2):
            stem = f"sub-{patient:02}/ses-{session}/anat/sub-{patient:02}_ses-{session}"
            files += [f"{stem}_T1w.nii", f"derivatives/{stem}_dseg.nii"]
    source = opened(tmp_path, *files)
    splits = {(case.group, case.split) for case in source.cases}
    assert len(splits) == 12
    assert {split for _, split in splits} == {"train", "val", "test"}


def test_a_scan_not_named_after_its_patient_is_reported(tmp_path: Path) -> None:
    source = opened(tmp_path, "sub-01/anat/sub-01_T1w.nii", "sub-01/anat/sub-010_T1w.nii", "sub-01/anat/T1w.nii")
    assert [case.name for case in source.cases] == ["sub-01"]
    assert {Path(finding.file).name: finding.action for finding in source.findings} == {
        "sub-010_T1w.nii": "left out", "T1w.nii": "left out"}  # fmt: skip


def test_a_bids_folder_without_scans_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"there is no scan as sub-01/anat/sub-01_T1w\.nii\.gz"):
        opened(tmp_path, "sub-01/anat/T1w.nii.gz", "sub-01/func/sub-01_bold.nii.gz")
