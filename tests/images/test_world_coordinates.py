"""A random volume has the same values at the same world coordinates (mm) in every format."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from voxmim.images.volume import read_volume

TYPES = {"u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "f4": "float", "f8": "double"}
UNITS = {"m": (1, 1e-3), "mm": (2, 1.0), "um": (3, 1e3)}  # NIfTI code, and units per mm


@st.composite
def volumes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Stored values (X, Y, Z) and an affine to RAS+ mm: rotated, mirrored, anisotropic or sheared."""
    dtype = draw(st.sampled_from(list(TYPES)))
    shape = draw(st.tuples(*[st.integers(2, 5)] * 3))
    elements = st.floats(-1e4, 1e4, width=32) if dtype[0] == "f" else st.integers(0 if dtype[0] == "u" else -128, 127)
    array = draw(arrays(dtype, shape, elements=elements))
    turn, _ = np.linalg.qr(np.random.default_rng(draw(st.integers(0, 999))).normal(size=(3, 3)))
    sizes = draw(st.tuples(*[st.floats(0.05, 6)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = turn * sizes
    affine[:3, 1] += affine[:3, 0] * draw(st.sampled_from([0.0, 0.0, 0.15]))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return array, affine


def write_nifti(
    file: Path, kind: type, array: np.ndarray, affine: np.ndarray, unit: str, order: str, scaling: tuple[float, float]
) -> None:
    header = kind.header_class(endianness=order)
    header.set_data_dtype(array.dtype.newbyteorder(order))
    code, per_mm = UNITS[unit]
    image = kind(array, np.diag([per_mm, per_mm, per_mm, 1]) @ affine, header)
    image.set_sform(image.affine, 1)
    image.set_qform(None, 0)
    image.header["xyzt_units"] = code
    content = bytearray(image.to_bytes())  # nibabel chooses the scaling of what it writes
    size, place = (348, image.header.structarr.dtype.fields["scl_slope"][1]) if kind is nib.Nifti1Image else (540, 176)
    assert len(content) > size
    content[place : place + 2 * (4 if size == 348 else 8)] = np.array(
        scaling, f"{order}f{4 if size == 348 else 8}"
    ).tobytes()
    file.write_bytes(content)


def write_nrrd(file: Path, array: np.ndarray, affine: np.ndarray, unit: str, order: str) -> None:
    scaled = affine[:3] * UNITS[unit][1]
    vectors = ["(" + ",".join(f"{value:.17g}" for value in column) + ")" for column in scaled.T]
    sizes, units = " ".join(map(str, array.shape)), " ".join([f'"{unit}"'] * 3)
    head = (
        f"NRRD0005\ntype: {TYPES[array.dtype.str[1:]]}\ndimension: 3\nspace: right-anterior-superior\nsizes: {sizes}\n"
        f"space directions: {' '.join(vectors[:3])}\nspace origin: {vectors[3]}\nspace units: {units}\n"
        f"endian: {'little' if order == '<' else 'big'}\nencoding: raw\n\n"
    )
    file.write_bytes(head.encode() + array.astype(array.dtype.newbyteorder(order)).tobytes(order="F"))


def write_meta(file: Path, array: np.ndarray, affine: np.ndarray, unit: str, order: str) -> None:
    lps = np.diag([-1, -1, 1]) @ affine[:3] * UNITS[unit][1]
    sizes = np.linalg.norm(lps[:, :3], axis=0)
    text = lambda values: " ".join(f"{value:.17g}" for value in values)  # noqa: E731
    head = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = {order == '>'}\n"
        f"TransformMatrix = {text((lps[:, :3] / sizes).T.ravel())}\nOffset = {text(lps[:, 3])}\n"
        f"ElementSpacing = {text(sizes)}\nDistanceUnits = {unit}\nDimSize = {' '.join(map(str, array.shape))}\n"
        f"ElementType = MET_{TYPES[array.dtype.str[1:]].upper()}\nElementDataFile = LOCAL\n"
    )
    file.write_bytes(head.encode() + array.astype(array.dtype.newbyteorder(order)).tobytes(order="F"))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    volume=volumes(), unit=st.sampled_from(list(UNITS)), order=st.sampled_from("<>"),
    scaling=st.sampled_from([(1.0, 0.0), (0.0, 7.0), (2.0, -1024.0), (0.5, 0.0), (-1.0, 3.0)]),
)  # fmt: skip
def test_every_format_reads_the_same_values_at_the_same_world_coordinates(
    tmp_path: Path, volume: tuple[np.ndarray, np.ndarray], unit: str, order: str, scaling: tuple[float, float]
) -> None:
    array, affine = volume
    slope, intercept = scaling if scaling[0] else (1.0, 0.0)
    for name, kind in (("one.nii", nib.Nifti1Image), ("two.nii", nib.Nifti2Image)):
        write_nifti(tmp_path / name, kind, array, affine, unit, order, scaling)
        np.testing.assert_allclose(read_volume(tmp_path / name).array[0], array * slope + intercept, rtol=1e-6)
    write_nrrd(tmp_path / "a.nrrd", array, affine, unit, order)
    write_meta(tmp_path / "a.mha", array, affine, unit, order)
    for name in ("a.nrrd", "a.mha"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).array[0], array)
    corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*(n - 1 for n in array.shape), 1]
    for name in ("one.nii", "two.nii", "a.nrrd", "a.mha"):
        world = corners @ read_volume(tmp_path / name).affine.T
        np.testing.assert_allclose(world, corners @ affine.T, rtol=1e-5, atol=1e-4, err_msg=name)
