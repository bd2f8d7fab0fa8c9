"""Reconstructions of masked scans by a pre-trained network: pictures, and volumes on the scan's own grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from voxmim.doctor.reading import read_channels
from voxmim.errors import WeightsError
from voxmim.files import atomic_write
from voxmim.images.geometry import resample
from voxmim.images.intensity import unwindow
from voxmim.images.volume import Volume, write_volume
from voxmim.networks.patches import grid_of, mask_to_voxels
from voxmim.networks.precision import working_dtype
from voxmim.pretext.build import build_pretext, described_pretext
from voxmim.report.figures import reconstruction_picture
from voxmim.store.prepare import PreparedScan
from voxmim.tasks.given import Scan, Written, given_scans
from voxmim.tasks.scans import Progress, for_each
from voxmim.tasks.task import Predictor
from voxmim.weights.files import read_weights
from voxmim.weights.load import encoder_from, load_into


@dataclass
class Reconstruction:
    """One scan, its mask and its reconstruction on the prepared grid."""

    original: np.ndarray  # (C, X, Y, Z) float32, the network's input without mask
    hidden: np.ndarray  # (X, Y, Z) bool, the mask
    reconstructed: np.ndarray  # (C, X, Y, Z) float32, predicted voxels in the mask, `original` elsewhere

    def picture(self, spacing: Sequence[float]) -> bytes:
        return reconstruction_picture(self.original[0], self.hidden, self.reconstructed[0], spacing)


class Reconstructor(Predictor):
    """A pre-trained network that predicts masked voxels."""

    network: Any  # a Pretext that reconstructs

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Load a pre-training's run folder or its ``pretext.safetensors``, onto a GPU if there is one.

        Raises WeightsError if there are no such weights, or the pretext predicts no voxels.
        """
        tensors, metadata = read_weights(Path(path), "pretext")
        name, settings, mask = described_pretext(metadata)
        network = build_pretext(name, settings, mask, encoder_from(metadata))
        if not network.reconstructs:
            raise WeightsError(
                f"{path}: {network.title} predicts no voxels to reconstruct; give a run of MAE or SimMIM."
            )
        load_into(network, tensors, str(path), min_fraction=1.0)
        return cls(network.eval(), metadata)

    @torch.no_grad()
    def reconstruct(self, image: np.ndarray, seed: int) -> Reconstruction:
        """Mask and reconstruct a network's input (C, X, Y, Z) in adjacent crops, zero-padded to whole crops."""
        shape, crop = image.shape[1:], self.crop
        extra = [-n % c for n, c in zip(shape, crop, strict=True)]
        pad = [(0, 0), *((more // 2, more - more // 2) for more in extra)]
        padded = torch.from_numpy(np.pad(image.astype(np.float32), pad))
        result, hidden = torch.empty_like(padded), torch.empty(padded.shape[1:], dtype=torch.bool)
        generator = torch.Generator().manual_seed(seed)
        for corner in np.ndindex(*(n // c for n, c in zip(hidden.shape, crop, strict=True))):
            box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(corner, crop, strict=True))
            result[(slice(None), *box)], hidden[box] = self._reconstruct_crop(padded[(slice(None), *box)], generator)
        inside = tuple(slice(before, before + n) for (before, _), n in zip(pad[1:], shape, strict=True))
        return Reconstruction(image, hidden[inside].numpy(), result[(slice(None), *inside)].numpy())

    def _reconstruct_crop(self, crop: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A reconstructed crop (C, X, Y, Z), and its mask (X, Y, Z)."""
        patch, (x, y, z) = self.network.patch, crop.shape[1:]
        seed = torch.randint(2**62, (1,), generator=generator)
        # A network with one input channel gets the channels as a batch, with the same mask.
        volume = crop[None] if self.network.encoder.channels == len(crop) else crop[:, None]
        volume = volume.cuda() if torch.cuda.is_available() else volume
        dtype = working_dtype(volume.device, "auto")
        with torch.autocast(volume.device.type, dtype, enabled=dtype != torch.float32):
            output = self.network(*self.network.inputs(volume, seed.expand(len(volume))))
        reconstructed = self.network.reconstruct(volume, output).reshape(crop.shape).cpu()
        return reconstructed, mask_to_voxels(output.mask[:1].cpu(), grid_of((x, y, z), patch), patch)[0, 0]


def reconstruct(run: Path, scans: Sequence[Path], out: Path, seed: int = 0, on_case: Progress | None = None) -> Written:
    """Write for each scan a picture and three volumes on its own grid and in its units; see `voxmim.reconstruct`.

    ``CASE.png`` shows original, masked and reconstructed scan in three planes. ``CASE_reconstructed.nii.gz`` has
    predicted voxels in the mask and the scan elsewhere, ``CASE_masked.nii.gz`` the scan's minimum in the mask,
    ``CASE_mask.nii.gz`` the mask. Voxels outside the foreground box are never masked.

    Scans that cannot be used are left out. Raises SourceError or ScanError if none can be used, WeightsError if the
    pretext predicts no voxels.
    """
    reconstructor = Reconstructor.load(run)
    preparation, bounds = reconstructor.preparation, tuple(reconstructor.metadata["window"])
    given, left_out = given_scans(scans, preparation.channels)

    def write(name: str, files: Scan) -> Path:
        scan = reconstructor.prepare(*files)
        result = reconstructor.reconstruct(reconstructor.image(scan).numpy(), seed)
        with atomic_write(out / f"{name}.png") as temporary:
            temporary.write_bytes(result.picture(scan.grid.spacing))
        own = read_channels(files.images, len(scan.image), preparation.match_channels)
        own = own if files.order is None else Volume(own.array[list(files.order)], own.affine)
        write_in_own_grid(own, scan, result, out / name, bounds)
        return out / f"{name}.png"

    written, failed = for_each(given, write, on_case)
    return Written(written.values(), [*left_out, *failed])


def write_in_own_grid(
    own: Volume, scan: PreparedScan, result: Reconstruction, stem: Path, bounds: tuple[float, float]
) -> None:
    """Write a reconstruction as NIfTI volumes on the grid and in the units of the scan's file (`own`)."""
    kind = scan.intensities[0].kind

    def in_own_units(array: np.ndarray) -> np.ndarray:
        stored = unwindow(array, kind, bounds)
        return np.stack([rule.invert(channel) for rule, channel in zip(scan.intensities, stored, strict=True)])

    def on_own_grid(array: np.ndarray, order: Literal["linear", "nearest"] = "linear") -> np.ndarray:
        return resample(Volume(array, scan.grid.affine), scan.original, order, fill=0).array

    hidden = on_own_grid(result.hidden[None].astype(np.float32), "nearest")[0] > 0
    predicted = on_own_grid(in_own_units(result.reconstructed))
    array = own.array.astype(np.float32)
    volumes = {
        "mask": hidden[None].astype(np.uint8),
        "masked": np.where(hidden, array.min(axis=(1, 2, 3), keepdims=True), array),
        "reconstructed": np.where(hidden, predicted, array),
    }
    for name, volume in volumes.items():
        write_volume(stem.with_name(f"{stem.name}_{name}.nii.gz"), Volume(volume, scan.original.affine))
