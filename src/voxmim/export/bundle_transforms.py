"""Transforms of a MONAI bundle: preparing scans and resampling labels to their grid, as in voxmim.

`voxmim.export.monai_bundle` copies this file and the modules that it imports into each bundle.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from voxmim.images.components import remove_small_components
from voxmim.images.geometry import resample, resample_probabilities, resample_to_label_map, resampled_grid, to_ras
from voxmim.images.grid import Grid, Spacing, Volume
from voxmim.images.intensity import fit_intensity, foreground_box, window


class Network(nn.Module):
    """A network saved by `torch.export`: volumes (B, C, X, Y, Z) to probabilities (B, K, X, Y, Z) float32."""

    def __init__(self, file: Path | str, device: torch.device | str = "cpu") -> None:
        super().__init__()
        program = move_to_device_pass(torch.export.load(file), str(device))
        self.program = program.module()

    def forward(self, volume: Tensor) -> Tensor:
        return self.program(volume)

    def train(self, mode: bool = True) -> Self:
        """Do nothing: an exported network is always in evaluation mode."""
        return self


class PrepareScand(MapTransform):
    """Orient, resample, crop to the foreground, and scale intensities.

    Args:
        keys: of scans (C, X, Y, Z) loaded by MONAI.
        spacing: voxel size in mm along X, Y, Z.
        intensity: ``ct`` or ``mr``.
        window: HU that become 0 and 1 (CT).
        zero_background: whether a constant background becomes 0 (MR).
        channels: their names.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        spacing: Spacing,
        intensity: str,
        window: tuple[float, float],
        zero_background: bool,
        channels: Sequence[str],
    ) -> None:
        super().__init__(keys)
        self.spacing, self.intensity, self.channels = spacing, intensity, channels
        self.window, self.zero_background = window, zero_background

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: self._prepared(data[key]) for key in self.key_iterator(dict(data))}}

    def _prepared(self, scan: MetaTensor) -> MetaTensor:
        if len(scan) != len(self.channels):
            raise ValueError(
                f"{scan.meta['filename_or_obj']}: of the channels that the network needs ({', '.join(self.channels)}), "
                f"the scan has {len(scan)}."
            )
        volume = to_ras(Volume(scan.numpy(), scan.affine.numpy()))
        grid = resampled_grid(Grid.of(volume), self.spacing)
        image = resample(volume, grid).array
        box = foreground_box(self.intensity, image)
        rules = [fit_intensity(self.intensity, channel, self.zero_background) for channel in image]
        stored = np.stack([rule.apply(channel[box]) for rule, channel in zip(rules, image, strict=True)])
        windowed = torch.from_numpy(window(stored, self.intensity, self.window))
        return MetaTensor(windowed, torch.from_numpy(grid.crop(box).affine), scan.meta)


class RestoreLabelsd(MapTransform):
    """From probabilities on a prepared scan to a label map (1, X, Y, Z) uint8 on the grid of the scan's file.

    Args:
        keys: of probabilities (K, X, Y, Z).
        values: the label value of each output, background first; unused if the outputs are regions.
        members: label values with the indices of their regions, see `Structures.members`.
        cleaned: label values whose small components are removed.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        values: Sequence[int],
        members: Sequence[tuple[int, Sequence[int]]],
        cleaned: Sequence[int] = (),
    ) -> None:
        super().__init__(keys)
        self.values, self.members, self.cleaned = np.asarray(values, dtype=np.uint8), members, cleaned

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, **{key: self._labels(data[key]) for key in self.key_iterator(dict(data))}}

    def _labels(self, found: MetaTensor) -> MetaTensor:
        probabilities = found.cpu().numpy()
        x, y, z = probabilities.shape[1:]
        grid = Grid((x, y, z), found.affine.cpu().numpy())
        x, y, z = (int(size) for size in found.meta["spatial_shape"])
        affine = torch.as_tensor(found.meta["original_affine"], dtype=torch.float64)
        original = Grid((x, y, z), affine.numpy())
        if self.members:
            positive = resample_probabilities(probabilities, grid, original, None) > 0.5
            labels = np.zeros(original.shape, dtype=np.uint8)
            for value, regions in self.members:
                labels[positive[list(regions)].all(axis=0)] = value
        else:
            labels = self.values[resample_to_label_map(probabilities, grid, original)]
        labels = remove_small_components(labels, self.cleaned)
        return MetaTensor(torch.from_numpy(labels[None]), affine, found.meta)
