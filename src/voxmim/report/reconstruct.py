"""What a pre-trained network makes of the hidden parts of a scan: pictures, and volumes to lay over the scan."""

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
    """One scan, its mask, and what was predicted, all on the prepared grid."""

    original: np.ndarray  # (C, X, Y, Z) float32 as the network sees it
    hidden: np.ndarray  # (X, Y, Z) bool, True where the network saw nothing
    reconstructed: np.ndarray  # (C, X, Y, Z) float32, predicted where hidden, the scan itself elsewhere

    def picture(self, spacing: Sequence[float]) -> bytes:
        return reconstruction_picture(self.original[0], self.hidden, self.reconstructed[0], spacing)


class Reconstructor(Predictor):
    """A pre-trained network that predicts hidden voxels, with all that it needs to hide them."""

    network: Any  # a Pretext that reconstructs

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """From a pre-training's run folder or its ``pretext.safetensors``, onto a GPU if there is one.

        Raises WeightsError if there are no such weights, or those of a pretext that predicts no voxels.
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
        """Hide and reconstruct a prepared scan (C, X, Y, Z) as the network sees it, crop beside crop, in zeros."""
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
        """One crop (C, X, Y, Z) reconstructed, and where it was hidden (X, Y, Z)."""
        patch, (x, y, z) = self.network.patch, crop.shape[1:]
        seed = torch.randint(2**62, (1,), generator=generator)
        # A network of one input gets channel after channel, each under the same mask.
        volume = crop[None] if self.network.encoder.channels == len(crop) else crop[:, None]
        volume = volume.cuda() if torch.cuda.is_available() else volume
        dtype = working_dtype(volume.device, "auto")
        with torch.autocast(volume.device.type, dtype, enabled=dtype != torch.float32):
            output = self.network(*self.network.inputs(volume, seed.expand(len(volume))))
        whole_crop = self.network.reconstruct(volume, output).reshape(crop.shape).cpu()
        return whole_crop, mask_to_voxels(output.mask[:1].cpu(), grid_of((x, y, z), patch), patch)[0, 0]


def reconstruct(run: Path, scans: Sequence[Path], out: Path, seed: int = 0, on_case: Progress | None = None) -> Written:
    """Write for each scan a picture and three volumes in its own grid and units; arguments as of `voxmim.reconstruct`.

    ``CASE.png`` shows original, masked and reconstructed in three planes. ``CASE_reconstructed.nii.gz`` has the
    predicted patches with the visible ones pasted in, ``CASE_masked.nii.gz`` what the network saw (hidden voxels at
    the scan's minimum), ``CASE_mask.nii.gz`` 1 where hidden. Outside the foreground box the scan stays as it is.

    A scan that cannot be used is named and left out. Raises SourceError or ScanError if none can be used,
    WeightsError if the run predicts no voxels.
    """
    reconstructor = Reconstructor.load(run)
    preparation, bounds = reconstructor.preparation, tuple(reconstructor.metadata["window"])
    given, left_out = given_scans(scans, preparation.channels)

    def write(name: str, files: Scan) -> Path:
        scan = reconstructor.prepare(*files)
        found = reconstructor.reconstruct(reconstructor.image(scan).numpy(), seed)
        with atomic_write(out / f"{name}.png") as temporary:
            temporary.write_bytes(found.picture(scan.grid.spacing))
        own = read_channels(files.images, len(scan.image), preparation.match_channels)
        own = own if files.order is None else Volume(own.array[list(files.order)], own.affine)
        write_in_own_grid(own, scan, found, out / name, bounds)
        return out / f"{name}.png"

    written, failed = for_each(given, write, on_case)
    return Written(written.values(), [*left_out, *failed])


def write_in_own_grid(
    own: Volume, scan: PreparedScan, found: Reconstruction, stem: Path, bounds: tuple[float, float]
) -> None:
    """Write a reconstruction as NIfTI volumes that overlay on the scan as read, in its grid and its units."""
    kind = scan.intensities[0].kind

    def in_own_units(array: np.ndarray) -> np.ndarray:
        stored = unwindow(array, kind, bounds)
        return np.stack([rule.invert(channel) for rule, channel in zip(scan.intensities, stored, strict=True)])

    def on_own_grid(array: np.ndarray, order: Literal["linear", "nearest"] = "linear") -> np.ndarray:
        return resample(Volume(array, scan.grid.affine), scan.original, order, fill=0).array

    hidden = on_own_grid(found.hidden[None].astype(np.float32), "nearest")[0] > 0
    predicted = on_own_grid(in_own_units(found.reconstructed))
    array = own.array.astype(np.float32)
    volumes = {
        "mask": hidden[None].astype(np.uint8),
        "masked": np.where(hidden, array.min(axis=(1, 2, 3), keepdims=True), array),
        "reconstructed": np.where(hidden, predicted, array),
    }
    for name, volume in volumes.items():
        write_volume(stem.with_name(f"{stem.name}_{name}.nii.gz"), Volume(volume, scan.original.affine))
