"""What a pre-trained network makes of the hidden parts of a scan: pictures, and volumes to lay over the scan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from voxmim.errors import WeightsError
from voxmim.files import atomic_write
from voxmim.images.channels import read_channels
from voxmim.images.geometry import resample
from voxmim.images.intensity import unwindow, window
from voxmim.images.volume import Volume, write_volume
from voxmim.networks.patches import grid_of, mask_to_voxels
from voxmim.networks.precision import working_dtype
from voxmim.pretext.build import build_pretext, described_pretext
from voxmim.report.figures import reconstruction_picture
from voxmim.sources import channel_files
from voxmim.store.format import Preparation
from voxmim.store.prepare import PreparedScan, prepare_scan
from voxmim.weights.files import read_weights
from voxmim.weights.load import encoder_from, load_into


@dataclass
class Reconstruction:
    """One scan, its mask, and what was predicted, all on the prepared grid."""

    original: np.ndarray  # (C, X, Y, Z) float32 as the network sees it
    hidden: np.ndarray  # (X, Y, Z) bool, True where the network saw nothing
    reconstructed: np.ndarray  # (C, X, Y, Z) float32, predicted where hidden, the scan itself elsewhere


@dataclass
class Reconstructor:
    """A pre-trained network that predicts hidden voxels, with all that it needs to hide them."""

    # the weights, set to evaluation
    network: Any  # a Pretext that reconstructs
    metadata: dict[str, Any]  # metadata of the weights file

    @classmethod
    def load(cls, path: Path | str) -> "Reconstructor":
        """From a pre-training's run folder or its ``pretext.safetensors``, onto a GPU if there is one.

        Raises WeightsError where there are no such weights, or those of a pretext that predicts no voxels.
        """
        tensors, metadata = read_weights(Path(path), "pretext")
        name, settings, mask = described_pretext(metadata)
        network = build_pretext(name, settings, mask, encoder_from(metadata))
        if not network.reconstructs:
            raise WeightsError(
                f"{path}: {network.title} predicts no voxels to reconstruct; give a run of MAE or SimMIM."
            )
        load_into(network, tensors, str(path), min_fraction=1.0)
        return cls((network.cuda() if torch.cuda.is_available() else network).eval(), metadata)

    @torch.no_grad()
    def reconstruct(self, image: np.ndarray, seed: int) -> Reconstruction:
        """Hide and reconstruct a prepared scan (C, X, Y, Z) as the network sees it, crop beside crop, padded with
        zeros.
        """
        shape, crop = image.shape[1:], self.metadata["crop"]
        padded_shape = [-(-n // c) * c for n, c in zip(shape, crop, strict=True)]
        pad = [(p - n) // 2 for p, n in zip(padded_shape, shape, strict=True)]
        after = [p - n - before for p, n, before in zip(padded_shape, shape, pad, strict=True)]
        padded = torch.from_numpy(np.pad(image.astype(np.float32), [(0, 0), *zip(pad, after, strict=True)]))
        result, hidden = torch.empty_like(padded), torch.empty(padded.shape[1:], dtype=torch.bool)
        generator = torch.Generator().manual_seed(seed)
        for corner in np.ndindex(*(p // c for p, c in zip(padded_shape, crop, strict=True))):
            box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(corner, crop, strict=True))
            result[(slice(None), *box)], hidden[box] = self._reconstruct_crop(padded[(slice(None), *box)], generator)
        inside = tuple(slice(a, a + n) for a, n in zip(pad, shape, strict=True))
        return Reconstruction(image, hidden[inside].numpy(), result[(slice(None), *inside)].numpy())

    def _reconstruct_crop(self, crop: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One crop (C, X, Y, Z) reconstructed, and where it was hidden (X, Y, Z)."""
        patch, (x, y, z) = self.network.encoder.patch, crop.shape[1:]
        seed = torch.randint(2**62, (1,), generator=generator)
        # A network of one input gets channel after channel, each under the same mask.
        volume = crop[None] if self.network.encoder.channels == len(crop) else crop[:, None]
        volume = volume.cuda() if torch.cuda.is_available() else volume
        dtype = working_dtype(volume.device, "auto")
        with torch.autocast(volume.device.type, dtype, enabled=dtype != torch.float32):
            output = self.network(*self.network.inputs(volume, seed.expand(len(volume))))
        whole_crop = self.network.reconstruct(volume, output).reshape(crop.shape).cpu()
        return whole_crop, mask_to_voxels(output.mask[:1].cpu(), grid_of((x, y, z), patch), patch)[0, 0]


def reconstruct(
    run: Path, scans: Sequence[Path], out: Path, seed: int = 0, on_case: Callable[[int, int], None] | None = None
) -> list[Path]:
    """Write for each scan a picture and three volumes in the scan's own grid and units; arguments as of
    `voxmim.reconstruct`.

    ``CASE.png`` shows original, masked and reconstructed in three planes. ``CASE_reconstructed.nii.gz`` has the
    predicted patches with the visible ones pasted in, ``CASE_masked.nii.gz`` what the network saw (hidden voxels at
    the scan's minimum), ``CASE_mask.nii.gz`` 1 where hidden. Outside the foreground box the scan stays as it is.

    Raises SourceError or ScanError for a scan that cannot be used, WeightsError where the run predicts no voxels.
    """
    reconstructor = Reconstructor.load(run)
    preparation = Preparation.from_dict(reconstructor.metadata["preparation"])
    bounds = tuple(reconstructor.metadata["window"])
    written: list[Path] = []
    files = channel_files(scans, len(preparation.channels))
    for name, images in files.items():
        if on_case is not None:
            on_case(len(written), len(files))
        scan = prepare_scan(images, preparation)
        found = reconstructor.reconstruct(window(scan.image, preparation.intensity, bounds), seed)
        with atomic_write(out / f"{name}.png") as temporary:
            temporary.write_bytes(picture(found, scan.grid.spacing))
        own, _ = read_channels(images, len(scan.image), preparation.match_channels)
        write_in_own_grid(own, scan, found, out / name, bounds)
        written.append(out / f"{name}.png")
    if on_case is not None:
        on_case(len(files), len(files))
    return written


def picture(found: Reconstruction, spacing: Sequence[float]) -> bytes:
    """PNG of the first channel: original, masked, reconstructed, in three planes."""
    return reconstruction_picture(found.original[0], found.hidden, found.reconstructed[0], spacing)


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
    affine = scan.original.affine
    write_volume(stem.with_name(f"{stem.name}_mask.nii.gz"), Volume(hidden[None].astype(np.uint8), affine))
    masked = np.where(hidden, array.min(axis=(1, 2, 3), keepdims=True), array)
    write_volume(stem.with_name(f"{stem.name}_masked.nii.gz"), Volume(masked, affine))
    write_volume(
        stem.with_name(f"{stem.name}_reconstructed.nii.gz"), Volume(np.where(hidden, predicted, array), affine)
    )
