"""The walk over a DICOM file's lengths, on files of every kind and on each cut of them."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.filebase import DicomFile
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_files import places, voxels, write_enhanced, write_series
from voxmim.images.formats.dicom_bytes import is_whole

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_whole_file_is_whole_and_a_cut_one_is_not(tmp_path: Path, syntax: str) -> None:
    data = pydicom.dcmread(write_enhanced(tmp_path / "a", voxels(2), places(2)))
    data.file_meta.TransferSyntaxUID = syntax
    data["PixelData"].VR = "OW"
    with DicomFile(tmp_path / "b", "wb") as file:
        file.is_little_endian, file.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
        file.write(bytes(128) + b"DICM")
        write_file_meta_info(file, data.file_meta)
        write_dataset(file, data)
    assert is_whole(tmp_path / "b")
    content = (tmp_path / "b").read_bytes()
    (tmp_path / "b").write_bytes(content[:-1])
    assert not is_whole(tmp_path / "b")


@pytest.mark.parametrize("compress", [False, True])
def test_lengths_beyond_the_end_are_seen(tmp_path: Path, compress: bool) -> None:
    file, *_ = write_series(tmp_path, voxels(2), compress=compress)
    assert is_whole(file)
    content = bytearray(file.read_bytes())
    place = content.find(b"\x10\x00\x10\x00")  # the patient's name
    content[place + 4 : place + 8] = b"\xf0\xff\xff\x7f"
    file.write_bytes(content)
    assert not is_whole(file)


def test_what_is_deflated_is_left_to_others(tmp_path: Path) -> None:
    file = write_enhanced(tmp_path / "a", voxels(2), places(2))
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data.save_as(file)
    assert is_whole(file)
