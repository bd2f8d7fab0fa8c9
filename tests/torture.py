"""A torture folder: sources with every fault once, and good scans of every format and orientation among them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from conftest import tiny_case
from dicom_files import places, write_series
from voxmim.images.formats.dicom import find_series

SHAPE = (24, 22, 20)
AFFINE = np.array([[1.0, 0, 0, -11], [0, 1.2, 0, 7], [0, 0, 1.5, 30], [0, 0, 0, 1]])
COS, SIN = np.cos(0.2), np.sin(0.2)
OBLIQUE = np.array([[COS, -SIN, 0, 0], [SIN, COS, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ AFFINE
MARK = (9, 12, 11)  # voxel of the blob, within the body
MARK_HU = 2500


@dataclass
class Torture:
    """What lies in the folder.

    Attributes:
        path: of the sources, one folder each.
        kinds: of every file that must be found faulty, the kinds of its findings.
        good: case to file of every scan that must be kept, by source.
        marks: where the marker of each of these scans lies in the world, mm.
    """

    path: Path
    kinds: dict[str, set[str]] = field(default_factory=dict)
    good: dict[str, dict[str, Path]] = field(default_factory=dict)
    marks: dict[Path, np.ndarray] = field(default_factory=dict)

    @property
    def sources(self) -> dict[str, Path]:
        """What `inspect` and `prepare` take, by name."""
        lists = {path.parent: path for path in self.path.glob("*/list.csv")}
        return {folder.name: lists.get(folder, folder) for folder in sorted(self.path.iterdir())}

    def fault(self, file: Path, *kinds: str) -> None:
        """Note that a file must be found faulty."""
        self.kinds.setdefault(str(file), set()).update(kinds)

    def keep(self, source: str, name: str, file: Path, affine: np.ndarray, mark: tuple[int, int, int] = MARK) -> None:
        """Note that a scan must be kept, and where its marker is."""
        self.good.setdefault(source, {})[name] = file
        self.marks[file] = (affine @ [*mark, 1])[:3]


def scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A CT in RAS with a marker, and its label map."""
    image, label = tiny_case(seed, SHAPE)
    x, y, z = MARK
    image[x - 1 : x + 2, y - 1 : y + 2, z - 1 : z + 2] = MARK_HU // 2
    image[MARK] = MARK_HU
    return image, label


def turned(array: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same volume with its axes running as told, such as ``LPS``."""
    image = nib.Nifti1Image(array, affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    found = image.as_reoriented(turn)
    return np.asarray(found.dataobj), found.affine


def write(path: Path, array: np.ndarray, affine: np.ndarray, kind: type = nib.Nifti1Image) -> Path:
    """Write a volume by nibabel (NIfTI) or ITK (the other formats)."""
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


def make_torture(path: Path) -> Torture:
    """Write the sources, each in a layout of its own."""
    torture = Torture(path)
    _pairs(torture)
    _formats(torture)
    _unlisted(torture)
    _channels(torture)
    _patients(torture)
    return torture


def _pairs(torture: Torture) -> None:
    source = torture.path / "pairs"
    count = 0

    def case(
        name: str,
        image: Callable[[np.ndarray], np.ndarray] | None = None,
        label: Callable[[np.ndarray], np.ndarray] | None = None,
        affines: tuple[np.ndarray, np.ndarray] = (AFFINE, AFFINE),
    ) -> tuple[Path, Path]:
        nonlocal count
        count += 1
        voxels, labels = scan(count)
        voxels, labels = image(voxels) if image else voxels, label(labels) if label else labels
        files = (source / "imagesTr" / f"{name}.nii.gz", source / "labelsTr" / f"{name}.nii.gz")
        return write(files[0], voxels, affines[0]), write(files[1], labels, affines[1])

    def good(name: str, file: Path, affine: np.ndarray = AFFINE) -> None:
        torture.keep("pairs", name, file, affine)

    def bad_image(name: str, kind: str, image: Callable[[np.ndarray], np.ndarray]) -> Path:
        file, _ = case(name, image)
        torture.fault(file, kind)
        return file

    def odd_label(name: str, kind: str, label: Callable[[np.ndarray], np.ndarray], affine: np.ndarray = AFFINE) -> Path:
        file, label_file = case(name, label=label, affines=(AFFINE, affine))
        torture.fault(label_file, kind)
        good(name, file)
        return label_file

    for index in range(6):
        good(f"good_{index}", case(f"good_{index}")[0])
    for index, axes in enumerate(("LPS", "PIR", "SAL")):
        voxels, labels = scan(100 + index)
        (image, affine), (label, _) = turned(voxels, AFFINE, axes), turned(labels, AFFINE, axes)
        good(axes, write(source / "imagesTr" / f"{axes}.nii.gz", image, affine))
        write(source / "labelsTr" / f"{axes}.nii.gz", label, affine)
    good("oblique", case("oblique", affines=(OBLIQUE, OBLIQUE))[0], OBLIQUE)

    bad_image("nan", "not finite", lambda a: _with(a, np.nan))
    bad_image("inf", "not finite", lambda a: _with(a, np.inf))
    bad_image("constant", "constant", np.zeros_like)
    bad_image("four", "4D", lambda a: np.stack([a, a + 1], axis=-1))
    bad_image("slice", "tiny", lambda a: a[:, :, :1])
    file = bad_image("junk", "unreadable", lambda a: a)
    file.write_bytes(b"no scan at all")
    file = bad_image("cut", "cut off", lambda a: a)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    file = bad_image("huge", "huge", lambda a: a)
    file.write_bytes(gzip.compress(_header((2048, 1024, 1024))))
    shear = AFFINE @ [[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    file, label = case("sheared")
    for each in (file, label):
        sheared = nib.Nifti1Image(np.asarray(nib.load(each).dataobj), shear)
        sheared.header.set_sform(shear, 1)
        sheared.header["qform_code"] = 0
        nib.save(sheared, each)
        torture.fault(each, "wrong orientation")
    good("sheared", file, shear)
    copied = source / "imagesTr" / "copied.mha"
    torture.fault(write(copied, scan(1)[0].astype(np.float32), AFFINE), "duplicate")

    file, label = case("thin", lambda a: a[:, :, 8:13], lambda a: a[:, :, 8:13])
    torture.fault(file, "tiny")
    file, _ = case("last_axis", lambda a: a[..., None])
    torture.fault(file, "4D")
    good("last_axis", file)
    for file in case("unsided"):
        _patched(file, {252: b"\0\0\0\0"})
        torture.fault(file, "no orientation")
    torture.fault(file, "flipped label")  # for the sides that were guessed are not the others'
    file, _ = case("two_sided")
    image = nib.load(file)
    image.header.set_qform(AFFINE @ np.diag([-1, 1, 1, 1]), 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), file)
    torture.fault(file, "wrong orientation")
    good("two_sided", file)
    file, _ = case("coarse", affines=(AFFINE @ np.diag([1, 1, 8, 1]),) * 2)
    torture.fault(file, "spacing outlier")
    good("coarse", file, AFFINE @ np.diag([1, 1, 8, 1]))
    file, _ = case("mr", lambda a: np.maximum(a + 1000, 0))
    torture.fault(file, "intensity rule")

    odd_label("empty", "empty label", np.zeros_like)
    odd_label("unknown", "unknown label", lambda a: np.where(a == 2, 9, a).astype(np.uint8))
    odd_label("half", "not integers", lambda a: a * np.float32(0.5))
    odd_label("nearly", "not integers", lambda a: a * np.float32(1.0001))
    odd_label("shape", "other grid", lambda a: a[:, 1:])
    odd_label("place", "other grid", lambda a: a, _moved(3.0))
    odd_label("rounded", "other grid", lambda a: a, _moved(0.1))
    odd_label("mirrored_header", "other grid", lambda a: a, AFFINE @ np.diag([-1, 1, 1, 1]))
    odd_label("flipped", "flipped label", lambda a: a[::-1])
    odd_label("swapped", "flipped label", lambda a: np.array([0, 2, 1], np.uint8)[a])
    file = odd_label("label_junk", "unreadable", lambda a: a)
    file.write_bytes(b"no label map")
    file = odd_label("label_cut", "cut off", lambda a: a)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    file = odd_label("other_axes", "other axes", lambda a: a)
    write(file, *turned(nib.load(file).get_fdata().astype(np.uint8), AFFINE, "LPS"))

    dataset = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "bone": 1, "fat": 2}}
    (source / "dataset.json").write_text(json.dumps(dataset))


def _formats(torture: Torture) -> None:
    """Good scans of every format, two of them with the same name, and DICOM series, good and not."""
    source = torture.path / "formats"
    names = ("a.nii.gz", "b.nii", "c.img", "d.nrrd", "deep/er/d.nhdr", "e.mha", "deep/f.mhd")
    for index, name in enumerate(names):
        for kind in (nib.Nifti1Image, nib.Nifti2Image) if name.endswith((".nii", ".nii.gz")) else (nib.Nifti1Pair,):
            stem = f"second_{name}" if kind is nib.Nifti2Image else name
            voxels, affine = turned(scan(200 + 10 * index + (stem != name))[0], OBLIQUE if index % 2 else AFFINE, "LPS")
            file = write(source / stem, voxels, affine, kind)
            clash = file.name.startswith("d.n")
            case = "-".join([*(file.parent.relative_to(source).parts if clash else ()), file.name.split(".")[0]])
            mark = tuple(np.argwhere(voxels == MARK_HU)[0])
            torture.keep("formats", case, file, affine, mark)
    torture.fault(write(source / "organs.nii.gz", scan(310)[1], AFFINE), "label map", "intensity rule")
    series = source / "study"
    voxels = scan(300)[0]
    write_series(series / "good", voxels, uid="1.2.5")
    affine = np.diag([-0.8, -0.7, 2.5, 1])  # as the slices are spaced; DICOM's axes run left and posterior
    affine[:3, 3] = -3, -4, 5
    torture.keep("formats", "good", series / "good", affine)
    write_series(series / "gap", scan(301)[0], places(SHAPE[2] + 3)[[*range(8), *range(11, 23)]], uid="1.2.6")
    write_series(series / "survey", scan(302)[0][..., :2], uid="1.2.8", t0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER")
    for each in find_series(source):
        if each.fault is not None:
            torture.fault(each.path, "no scan" if "localizer" in each.fault else "dicom series")


def _unlisted(torture: Torture) -> None:
    """Labels that no dataset.json lists: one has a value that no other has."""
    source = torture.path / "unlisted"
    for index in range(4):
        voxels, labels = scan(400 + index)
        file = write(source / "images" / f"u_{index}.nii.gz", voxels, AFFINE)
        labels = np.where(labels == 2, 7, labels).astype(np.uint8) if index == 3 else labels
        label_file = write(source / "labels" / f"u_{index}.nii.gz", labels, AFFINE)
        torture.keep("unlisted", f"u_{index}", file, AFFINE)
        if index == 3:
            torture.fault(label_file, "rare label")


def _channels(torture: Torture) -> None:
    """Two channels: one case has both, one lacks one, one has them on different grids."""
    source = torture.path / "channels"
    for name, there in (("both", (0, 1)), ("lacking", (1,)), ("apart", (0, 1))):
        for channel in there:
            voxels = scan(500 + channel + len(name))[0] * (channel + 1)
            affine = _moved(5.0) if name == "apart" and channel == 1 else AFFINE
            file = write(source / "imagesTr" / f"{name}_000{channel}.nii.gz", voxels.astype(np.int16), affine)
            if name == "apart" and channel == 1:
                torture.fault(file, "other grid")
        if name == "lacking":
            torture.fault(file, "channels")
        if name == "both":
            torture.keep("channels", name, file, AFFINE)
    dataset = {"channel_names": {"0": "CT early", "1": "CT late"}, "labels": {"background": 0}}
    (source / "dataset.json").write_text(json.dumps(dataset))


def _patients(torture: Torture) -> None:
    """A list that puts the two scans of one patient on both sides of the split."""
    source = torture.path / "patients"
    rows = ["case,image,label,split,group"]
    for index, (split, group) in enumerate((("train", "p"), ("test", "p"), ("train", "q"), ("test", "r"))):
        voxels, labels = scan(600 + index)
        file = write(source / f"image_{index}.nii.gz", voxels, AFFINE)
        write(source / f"label_{index}.nii.gz", labels, AFFINE)
        torture.keep("patients", f"case_{index}", file, AFFINE)
        rows.append(f"case_{index},image_{index}.nii.gz,label_{index}.nii.gz,{split},{group}")
        if group == "p":
            torture.fault(file, "patient in two splits")
    (source / "list.csv").write_text("\n".join(rows))


def _with(array: np.ndarray, value: float) -> np.ndarray:
    array = array.astype(np.float32)
    array[5, 5, 5:9] = value
    return array


def _moved(voxels: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += voxels * AFFINE[0, 0]
    return affine


def _patched(file: Path, changes: dict[int, bytes]) -> None:
    """Change bytes of a zipped NIfTI header."""
    content = bytearray(gzip.decompress(file.read_bytes()))
    for place, new in changes.items():
        content[place : place + len(new)] = new
    file.write_bytes(gzip.compress(bytes(content)))


def _header(shape: tuple[int, int, int]) -> bytes:
    """The header of a NIfTI file of this shape, without its voxels."""
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), AFFINE)
    image.header.set_data_shape(shape)
    image.header["magic"], image.header["vox_offset"] = b"n+1", 352
    return image.header.binaryblock + b"\0" * 4
