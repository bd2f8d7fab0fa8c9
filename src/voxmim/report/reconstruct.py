"""What a pre-trained network makes of the hidden parts of a scan: pictures, and volumes to lay over the scan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from voxmim.files import whole
from voxmim.networks.patches import grid_of, mask_to_voxels
from voxmim.networks.weights import build_vit, load_into, read_kind, vit_settings
from voxmim.pretext.mae import MAE
from voxmim.pretext.masking import random_mask
from voxmim.recipe import MAESettings
from voxmim.report.figures import reconstruction_picture
from voxmim.scans.geometry import resample
from voxmim.scans.intensity import unwindow, window
from voxmim.scans.prepare import PreparedScan, prepare_scan
from voxmim.scans.volume import Volume, case_name, read_volume, write_volume
from voxmim.store import Preparation


@dataclass
class Reconstruction:
    """One scan, its mask, and what was predicted, all on the prepared grid.

    Attributes:
        original: (C, X, Y, Z) float32 as the network sees it.
        hidden: (X, Y, Z) bool, True where the network saw nothing.
        reconstructed: (C, X, Y, Z) float32, predicted where hidden, the scan itself elsewhere.
    """

    original: np.ndarray
    hidden: np.ndarray
    reconstructed: np.ndarray


def load_mae(path: Path | str) -> tuple[MAE, dict[str, Any]]:
    """The whole pretext network of a pre-training, set to evaluation, and its metadata.

    Raises:
        WeightsError: there are no such weights, or they are no pretext's.
    """
    tensors, metadata = read_kind(Path(path), "pretext")
    encoder = build_vit(vit_settings(metadata), len(metadata["preparation"]["channels"]), tuple(metadata["crop"]))
    network = MAE(encoder, MAESettings(**metadata["mae"]))
    load_into(network, tensors, str(path), least=1.0)
    return network.eval(), metadata


@torch.no_grad()
def reconstruct_array(network: MAE, image: np.ndarray, crop: tuple[int, int, int], seed: int) -> Reconstruction:
    """Hide and reconstruct a whole prepared scan, crop beside crop.

    Args:
        network: set to evaluation.
        image: (C, X, Y, Z) float32 as the network sees it.
        crop: voxels of a crop; the scan is padded with zeros to a whole number of them.
        seed: of the masks.
    """
    shape = image.shape[1:]
    padded_shape = [-(-n // c) * c for n, c in zip(shape, crop, strict=True)]
    pad = [(p - n) // 2 for p, n in zip(padded_shape, shape, strict=True)]
    after = [p - n - before for p, n, before in zip(padded_shape, shape, pad, strict=True)]
    padded = torch.from_numpy(np.pad(image.astype(np.float32), [(0, 0), *zip(pad, after, strict=True)]))
    result, hidden = torch.empty_like(padded), torch.empty(padded.shape[1:], dtype=torch.bool)
    patch, grid = network.encoder.patch, grid_of(crop, network.encoder.patch)
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    for corner in np.ndindex(*(p // c for p, c in zip(padded_shape, crop, strict=True))):
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(corner, crop, strict=True))
        piece = padded[(slice(None), *box)][None].to(device)
        mask = random_mask(1, grid[0] * grid[1] * grid[2], network.settings.ratio, generator)
        with torch.autocast(device.type, torch.bfloat16):
            output = network(piece, mask)
        result[(slice(None), *box)] = network.reconstruct(piece, output)[0].cpu()
        hidden[box] = mask_to_voxels(mask, grid, patch)[0, 0]
    inside = tuple(slice(a, a + n) for a, n in zip(pad, shape, strict=True))
    return Reconstruction(image, hidden[inside].numpy(), result[(slice(None), *inside)].numpy())


def reconstruct(
    run: Path, scans: Sequence[Path], out: Path, seed: int = 0, on_case: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write for each scan a picture and three volumes in the scan's own grid and units.

    ``CASE.png`` shows original, masked and reconstructed in three planes. ``CASE_reconstructed.nii.gz`` has the
    predicted patches with the visible ones pasted in, ``CASE_masked.nii.gz`` what the network saw (hidden voxels at
    the scan's minimum), ``CASE_mask.nii.gz`` 1 where hidden. Outside the foreground box the scan stays as it is.

    Args:
        run: a pre-training's run folder or its ``pretext.safetensors``.
        scans: files of scans.
        out: folder for the results.
        seed: of the masks.
        on_case: called with the scans done and their number.

    Returns:
        the pictures written.

    Raises:
        ScanError: a scan cannot be used.
        WeightsError: the run holds no pretext network.
    """
    network, metadata = load_mae(run)
    if torch.cuda.is_available():
        network = network.cuda()
    preparation = Preparation.from_dict(metadata["preparation"])
    bounds, (x, y, z) = tuple(metadata["window"]), metadata["crop"]
    written: list[Path] = []
    for path in scans:
        if on_case is not None:
            on_case(len(written), len(scans))
        scan = prepare_scan((path,), preparation)
        found = reconstruct_array(network, window(scan.image, preparation.intensity, bounds), (x, y, z), seed)
        name = case_name(path)
        with whole(out / f"{name}.png") as temporary:
            temporary.write_bytes(picture(found, scan.grid.spacing))
        write_in_own_grid(path, scan, found, out / name, bounds)
        written.append(out / f"{name}.png")
    if on_case is not None:
        on_case(len(scans), len(scans))
    return written


def picture(found: Reconstruction, spacing: Sequence[float]) -> bytes:
    """PNG of the first channel: original, masked, reconstructed, in three planes."""
    return reconstruction_picture(found.original[0], found.hidden, found.reconstructed[0], spacing)


def write_in_own_grid(
    path: Path, scan: PreparedScan, found: Reconstruction, stem: Path, bounds: tuple[float, float]
) -> None:
    """Write a reconstruction as NIfTI volumes that overlay on the scan's file, in its grid and its units."""
    own = read_volume(path, channels=len(scan.image))
    kind = scan.intensities[0].kind

    def in_own_units(array: np.ndarray) -> np.ndarray:
        stored = unwindow(array, kind, bounds)
        return np.stack([rule.invert(channel) for rule, channel in zip(scan.intensities, stored, strict=True)])

    def on_own_grid(array: np.ndarray, order: Literal["linear", "nearest"] = "linear") -> np.ndarray:
        return resample(Volume(array, scan.grid.affine), scan.original, order, fill=0).array

    hidden = on_own_grid(found.hidden[None].astype(np.float32), "nearest")[0] > 0
    predicted = on_own_grid(in_own_units(found.reconstructed))
    array = own.array.astype(np.float32)
    affine = scan.original.affine
    write_volume(stem.with_name(f"{stem.name}_mask.nii.gz"), Volume(hidden[None].astype(np.uint8), affine))
    masked = np.where(hidden, array.min(axis=(1, 2, 3), keepdims=True), array)
    write_volume(stem.with_name(f"{stem.name}_masked.nii.gz"), Volume(masked, affine))
    write_volume(
        stem.with_name(f"{stem.name}_reconstructed.nii.gz"), Volume(np.where(hidden, predicted, array), affine)
    )
