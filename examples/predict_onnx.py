"""Label scans with a network that `voxmim export SEGMENTOR segmentor.onnx --to onnx` has written.

It needs onnxruntime, numpy, scipy and nibabel, neither torch nor voxmim:

    python predict_onnx.py segmentor.onnx scan.nii.gz --out labels

A scan of several channels is one 4D file. The label map has the grid of its scan. Everything that `voxmim predict`
does to a scan is repeated here in plain NumPy: orientation, voxel size, foreground box, intensities, sliding window.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import onnxruntime
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from scipy import ndimage

AXES = (0, 1, 2)


def main() -> None:
    """Label each scan of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path)
    parser.add_argument("scans", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("labels"))
    given = parser.parse_args()
    session = onnxruntime.InferenceSession(given.network, providers=onnxruntime.get_available_providers())
    about = json.loads(session.get_modelmeta().custom_metadata_map["voxmim"])
    given.out.mkdir(parents=True, exist_ok=True)
    for file in given.scans:
        scan = nib.load(file)
        name = file.name.removesuffix(".gz").removesuffix(".nii")
        labels = nib.Nifti1Image(label_map(session, about, scan), scan.affine)
        nib.save(labels, given.out / f"{name}.nii.gz")
        print(given.out / f"{name}.nii.gz")


def label_map(session: onnxruntime.InferenceSession, about: dict, scan: nib.Nifti1Image) -> np.ndarray:
    """(X, Y, Z) uint8 on the scan's own grid."""
    to_ras = io_orientation(scan.affine)
    voxels = np.asarray(scan.dataobj, dtype=np.float32)
    voxels = voxels[..., None] if voxels.ndim == 3 else voxels
    image = np.stack([apply_orientation(channel, to_ras) for channel in np.moveaxis(voxels, -1, 0)])
    channels = about["preparation"]["channels"]
    if len(image) != len(channels):
        raise SystemExit(
            f"the network needs {len(channels)} channels ({', '.join(channels)}), the scan has {len(image)}."
        )
    shape = image.shape[1:]
    own = [
        along_axis(n, old, new) for n, old, new in zip(shape, spacing_of(scan, to_ras), about["preparation"]["spacing"])
    ]
    image = np.stack([separable(channel, [to_new(*axis) for axis in own]) for channel in image])
    image, box = prepared(image, about)
    found = probabilities(session, about, image)
    back = [to_old(part, n, axis) for part, n, axis in zip(box, shape, own)]
    decided = without_small_components(decide(found, back, shape, about), about)
    return apply_orientation(decided, ornt_transform([[axis, 1] for axis in AXES], to_ras))


# Voxel sizes


def spacing_of(scan: nib.Nifti1Image, to_ras: np.ndarray) -> list[float]:
    """Voxel size in mm along R, A, S."""
    sizes = np.linalg.norm(scan.affine[:3, :3], axis=0)
    return [float(sizes[np.flatnonzero(to_ras[:, 0] == axis)[0]]) for axis in AXES]


def along_axis(count: int, old: float, new: float) -> tuple[int, int, float]:
    """Voxels along an axis in the file and in the prepared scan, and how many of the first one of the second spans."""
    ratio = new / old
    if abs(count / ratio - count) < 0.1:
        return count, count, 1.0
    return count, max(1, int(np.ceil(count / ratio - 0.1))), ratio


def to_new(count: int, wanted: int, ratio: float) -> np.ndarray:
    """(wanted, count) matrix that interpolates along an axis; the outer edges of the first voxels coincide."""
    return interpolation(count, (ratio - 1) / 2 + ratio * np.arange(wanted), ratio)


def to_old(part: slice, count: int, axis: tuple[int, int, float]) -> tuple[np.ndarray, np.ndarray]:
    """The matrix from a box of the prepared scan back to the file's voxels, and which of those lie in the box."""
    ratio = axis[2]
    index = (np.arange(count) - (ratio - 1) / 2) / ratio - part.start
    size = part.stop - part.start
    return interpolation(size, index, 1 / ratio), (index >= -0.5) & (index <= size - 0.5)


def interpolation(count: int, index: np.ndarray, growth: float) -> np.ndarray:
    """(N, count) weights of linear interpolation at N indices, after a Gaussian where voxels grow by much."""
    index = np.clip(index, 0, count - 1)
    low = np.minimum(index.astype(int), max(count - 2, 0))
    weights = np.zeros((len(index), count))
    weights[np.arange(len(index)), low] = 1 - (index - low)
    weights[np.arange(len(index)), np.minimum(low + 1, count - 1)] += index - low
    if growth > 1.5:
        sigma = np.sqrt(growth**2 - 1) / (2 * np.sqrt(2 * np.log(2)))
        weights = weights @ ndimage.gaussian_filter1d(np.eye(count), sigma, axis=0, mode="nearest")
    return weights.astype(np.float32)


def separable(volume: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """A volume (X, Y, Z) interpolated along each axis."""
    for axis, matrix in enumerate(matrices):
        volume = np.moveaxis(np.tensordot(matrix, volume, (1, axis)), 0, axis)
    return volume.astype(np.float32)


# Foreground and intensities


def prepared(image: np.ndarray, about: dict) -> tuple[np.ndarray, list[slice]]:
    """(C, X, Y, Z) the foreground as the network sees it, and its box."""
    is_ct = about["preparation"]["intensity"] == "ct"
    boxes = [box for channel in image for box in (bodies(channel) if is_ct else tissue(channel))]
    boxes = boxes or [[(0, n) for n in image.shape[1:]]]
    low, high = np.min(boxes, axis=0)[:, 0] - 2, np.max(boxes, axis=0)[:, 1] + 2
    box = [slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, image.shape[1:])]
    inside = image[(slice(None), *box)]
    if is_ct:
        bottom, top = about["window"]
        units = np.rint(np.clip(inside, -1024, 3071))
        return np.clip((units - bottom) / (top - bottom), 0, 1).astype(np.float32), box
    zero = about["preparation"].get("zero_background", False)
    return np.stack([z_score(whole, part, zero) for whole, part in zip(image, inside)]), box


def bodies(channel: np.ndarray) -> list[list[tuple[int, int]]]:
    """The boxes of what is connected and over -500 HU, but for what is small beside the largest."""
    components, _ = ndimage.label(channel > -500)
    sizes = np.bincount(components.ravel())[1:]
    found = ndimage.find_objects(components)
    return [[(s.start, s.stop) for s in box] for box, n in zip(found, sizes) if n >= 0.1 * sizes.max()]


def tissue(channel: np.ndarray) -> list[list[tuple[int, int]]]:
    """The box of what differs from a constant background."""
    background = constant_background(channel)
    flat = np.zeros(channel.shape, bool) if background is None else within(channel, *background)
    return [[(s.start, s.stop) for s in box] for box in ndimage.find_objects((~flat).astype(np.uint8))]


def z_score(whole: np.ndarray, part: np.ndarray, zero_background: bool) -> np.ndarray:
    """A part of a channel, standardised by the foreground of the whole channel."""
    background, whole = constant_background(whole), thinned(whole)
    low, high = np.percentile(whole, (0.5, 99.5))
    foreground = whole[whole > low + 0.1 * (high - low)] if background is None else whole[~within(whole, *background)]
    foreground = foreground if foreground.size else whole.ravel()
    foreground = np.clip(foreground, *np.percentile(foreground, (0.5, 99.5))).astype(np.float64)
    std = float(foreground.std()) or float(whole.std()) or 1.0
    scaled = np.clip((part - np.float32(foreground.mean())) / np.float32(std), -10, 10).astype(np.float16)
    if background is not None and zero_background:
        scaled[within(part, *background)] = 0
    return scaled.astype(np.float32)


def constant_background(channel: np.ndarray) -> tuple[float, float] | None:
    """Bounds of the one value of most voxels on the six faces, if there is one."""
    faces = np.concatenate([np.take(channel, end, axis).ravel() for axis in AXES for end in (0, -1)])
    low, high = np.percentile(thinned(channel), (0.5, 99.5))
    reach, value = 1e-3 * (high - low), np.median(faces)
    return (value - reach, value + reach) if np.mean(np.abs(faces - value) <= reach) >= 0.5 else None


def within(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Where values lie between two bounds."""
    return (array >= low) & (array <= high)


def thinned(array: np.ndarray) -> np.ndarray:
    """Every n-th voxel along each axis where there are more than statistics need."""
    step = int(np.ceil((array.size / 2**24) ** (1 / 3)))
    return array[::step, ::step, ::step]


# The network


def probabilities(session: onnxruntime.InferenceSession, about: dict, image: np.ndarray) -> np.ndarray:
    """(K, X, Y, Z) float32 of a prepared scan: overlapping windows, averaged with Gaussian weights."""
    crop, shape = about["crop"], image.shape[1:]
    pads = [max(0, wide - n) for wide, n in zip(crop, shape)]
    image = np.pad(image, [(0, 0), *((pad // 2, pad - pad // 2) for pad in pads)])
    weight, total = gaussian(crop), None
    norm = np.zeros(image.shape[1:], dtype=np.float32)
    for start in product(*(starts(n, wide, about["overlap"]) for n, wide in zip(image.shape[1:], crop))):
        box = tuple(slice(at, at + wide) for at, wide in zip(start, crop))
        logits = session.run(["logits"], {"volume": image[(None, slice(None), *box)]})[0][0]
        total = np.zeros((len(logits), *norm.shape), dtype=np.float32) if total is None else total
        total[(slice(None), *box)] += activate(logits, about) * weight
        norm[box] += weight
    inside = tuple(slice(pad // 2, pad // 2 + n) for pad, n in zip(pads, shape))
    return (total / norm)[(slice(None), *inside)]


def starts(size: int, crop: int, overlap: float) -> list[int]:
    """First voxel of each window along one axis."""
    step = max(1, int(crop * (1 - overlap)))
    count = max(0, int(np.ceil((size - crop) / step))) + 1
    return sorted({min(at * step, max(0, size - crop)) for at in range(count)})


def gaussian(crop: list[int]) -> np.ndarray:
    """(*crop) weights of a window's voxels."""
    x, y, z = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (0.125 * n)) ** 2) for n in crop)
    return np.maximum(x[:, None, None] * y[:, None] * z, 1e-3).astype(np.float32)


def activate(logits: np.ndarray, about: dict) -> np.ndarray:
    """Probabilities: of labels summing to 1, of each region by itself."""
    if about["regions"]:
        return 1 / (1 + np.exp(-logits))
    exponential = np.exp(logits - logits.max(axis=0))
    return exponential / exponential.sum(axis=0)


def decide(found: np.ndarray, back: list[tuple], shape: tuple[int, ...], about: dict) -> np.ndarray:
    """(X, Y, Z) uint8 label values on the file's voxels, from probabilities (K, ...) on the box."""
    inside = back[0][1][:, None, None] & back[1][1][:, None] & back[2][1]
    found = np.stack([separable(channel, [matrix for matrix, _ in back]) for channel in found])
    if not about["regions"]:
        return np.where(inside, np.asarray(about["values"], dtype=np.uint8)[found.argmax(axis=0)], np.uint8(0))
    result = np.zeros(shape, dtype=np.uint8)
    members = {
        int(v): [at for at, own in enumerate(about["regions"].values()) if int(v) in own] for v in about["labels"]
    }
    for value in sorted(members, key=lambda value: (len(members[value]), -value)):
        if members[value]:
            result[(found[members[value]] > 0.5).all(axis=0) & inside] = value
    return result


def without_small_components(labels: np.ndarray, about: dict) -> np.ndarray:
    """(X, Y, Z) without the components that are small beside their label's largest, for the labels that say so."""
    for value, name in about["labels"].items():
        if name not in about.get("remove_small_components", ()):
            continue
        components, _ = ndimage.label(labels == int(value), np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel())[1:]
        if len(sizes) > 1:
            labels[np.isin(components, 1 + np.flatnonzero(sizes < 0.3 * sizes.max()))] = 0
    return labels


if __name__ == "__main__":
    main()
