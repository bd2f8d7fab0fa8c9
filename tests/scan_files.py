"""Scans in every file format, and small sources, for the tests of the doctor and of the store."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from conftest import tiny_case

SHAPE = (24, 22, 20)
AFFINE = np.array([[1.0, 0, 0, -11], [0, 1.2, 0, 7], [0, 0, 1.5, 30], [0, 0, 0, 1]])
COS, SIN = np.cos(0.2), np.sin(0.2)
OBLIQUE = np.array([[COS, -SIN, 0, 0], [SIN, COS, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ AFFINE
MARK, MARK_HU = (9, 12, 11), 2500  # a voxel of the body that is brighter than any other


def scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A CT in RAS with a marker, and its label map."""
    image, label = tiny_case(seed, SHAPE)
    x, y, z = MARK
    image[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = MARK_HU // 2
    image[MARK] = MARK_HU
    return image, label


def reorient(array: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Reorient a volume to other voxel axes, such as ``LPS``."""
    image = nib.Nifti1Image(array, affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    result = image.as_reoriented(turn)
    return np.asarray(result.dataobj), result.affine


def moved(voxels: float) -> np.ndarray:
    """The affine of a grid shifted to the right by this many voxels."""
    affine = AFFINE.copy()
    affine[0, 3] += voxels * AFFINE[0, 0]
    return affine


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, kind: type = nib.Nifti1Image) -> Path:
    """Write a volume with nibabel (NIfTI) or ITK (the other formats); return its header file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz", ".img")):
        image = kind(array, affine)
        image.header.set_sform(affine, 1)
        image.header.set_qform(affine, 1)
        nib.save(image, path)
        return path.with_suffix(".hdr") if path.suffix == ".img" else path
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=path.suffix == ".nrrd")
    return path


def patch(file: Path, changes: dict[int, bytes]) -> None:
    """Change bytes of a gzipped NIfTI header."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    for place, new in changes.items():
        content[place : place + len(new)] = new
    file.write_bytes(gzip.compress(bytes(content)))


def cut(file: Path) -> None:
    """Truncate a file to half its size."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def write_pairs(source: Path, cases: int, first_seed: int = 0) -> Path:
    """Write a source of valid labelled CTs, ``good_0`` and so on, whose dataset.json lists bone and fat."""
    for index in range(cases):
        add_pair(source, f"good_{index}", *scan(first_seed + index))
    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "bone": 1, "fat": 2}}
    source.mkdir(exist_ok=True)
    (source / "dataset.json").write_text(json.dumps(dataset))
    return source


def add_pair(
    source: Path, name: str, image: np.ndarray, label: np.ndarray, affine: np.ndarray = AFFINE,
    label_affine: np.ndarray | None = None,
) -> tuple[Path, Path]:  # fmt: skip
    """Add a scan and its label map to a source; return their files."""
    label_affine = affine if label_affine is None else label_affine
    return (
        write(source / "imagesTr" / f"{name}.nii.gz", image, affine),
        write(source / "labelsTr" / f"{name}.nii.gz", label, label_affine),
    )
