"""Label maps for new scans, in the scans' own grids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxmim.errors import SourceError
from voxmim.images.formats.dicom import is_dicom
from voxmim.images.geometry import resample_probabilities, resample_to_label_map
from voxmim.images.intensity import window
from voxmim.images.volume import SCAN_ENDINGS, Volume, case_name, write_volume
from voxmim.networks.build import Segmentor as Network
from voxmim.sources import channel_files
from voxmim.sources.listing import scans_below
from voxmim.store.format import Preparation
from voxmim.store.prepare import PreparedScan, prepare_scan
from voxmim.tasks.segmentation.inference import predict_probabilities
from voxmim.tasks.segmentation.structures import Structures
from voxmim.weights.load import load_segmentor


@dataclass
class Segmentor:
    """A trained segmentor with all that it needs to label a scan from a file.

    Attributes:
        network: the weights, set to evaluation.
        preparation: what a scan must go through first.
        structures: the labels or regions that it tells apart.
        metadata: the rest of what the weights file tells.
    """

    network: Network
    preparation: Preparation
    structures: Structures
    metadata: dict[str, Any]

    @classmethod
    def load(cls, run: Path | str) -> Segmentor:
        """From a fine-tuning's run folder or a weights file, onto a GPU if there is one."""
        network, metadata = load_segmentor(run)
        if torch.cuda.is_available():
            network = network.cuda()
        structures = Structures.from_metadata(metadata)
        return cls(network, Preparation.from_dict(metadata["preparation"]), structures, metadata)

    def probabilities(self, scan: PreparedScan) -> np.ndarray:
        """(K, X, Y, Z) float32 on the prepared grid: of each label, background first, or of each region."""
        image = window(scan.image, self.preparation.intensity, tuple(self.metadata["window"]))
        x, y, z = self.metadata["crop"]
        overlap, precision = self.metadata["overlap"], self.metadata["precision"]
        return predict_probabilities(
            self.network, torch.from_numpy(image), (x, y, z), overlap, precision, self.structures.activate
        ).numpy()

    def label_shares(self, scan: PreparedScan) -> np.ndarray:
        """(largest label value + 1, X, Y, Z) float32 on the prepared grid, background first, 1 in all."""
        return self.structures.label_shares(self.probabilities(scan))

    def label_map(self, scan: PreparedScan) -> np.ndarray:
        """(X, Y, Z) uint8 on the scan's own grid; background outside the foreground box."""
        return resample_to_label_map(self.label_shares(scan), scan.grid, scan.original)


def predict(
    run: Path,
    scans: Sequence[Path],
    out: Path,
    probabilities: bool = False,
    on_case: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Label scans and write ``CASE.nii.gz`` for each, in the scan's own grid, affine and orientation.

    Args:
        run: a fine-tuning's run folder or weights file.
        scans: files, DICOM series, or folders whose scans are all taken; a scan of several channels is one 4D file, or
            files ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz`` and so on.
        out: folder for the label maps.
        probabilities: write ``CASE_probabilities.nii.gz`` too: 4D, one volume per label, background first; with
            regions one volume per region, in their order.
        on_case: called with the scans done and their number.

    Returns:
        the label maps written.

    Raises:
        SourceError: no scan was found, two have the same name, one lacks a channel, or a label map would replace its
            scan.
        ScanError: a scan cannot be used.
        WeightsError: the run holds no segmentor.
    """
    segmentor = Segmentor.load(run)
    written: list[Path] = []
    found_scans = channel_files(scan_files(scans), len(segmentor.preparation.channels))
    for name, images in found_scans.items():
        if (out / f"{name}.nii.gz").resolve() in [path.resolve() for path in images]:
            raise SourceError(f"{images[0]}: its label map would replace the scan; name another folder with --out.")
    for name, images in found_scans.items():
        if on_case is not None:
            on_case(len(written), len(found_scans))
        scan = prepare_scan(images, segmentor.preparation)
        found = segmentor.probabilities(scan)
        file = out / f"{name}.nii.gz"
        labels = resample_to_label_map(segmentor.structures.label_shares(found), scan.grid, scan.original)
        write_volume(file, Volume(labels[None], scan.original.affine))
        if probabilities:
            outside = None if segmentor.structures.regions else 0
            full = resample_probabilities(found, scan.grid, scan.original, outside)
            write_volume(out / f"{name}_probabilities.nii.gz", Volume(full, scan.original.affine))
        written.append(file)
    if on_case is not None:
        on_case(len(found_scans), len(found_scans))
    return written


def scan_files(paths: Sequence[Path]) -> list[Path]:
    """The scans among files and folders, each name once.

    Raises:
        SourceError: there is none, a path is missing, or two scans would be written to the same name.
    """
    files: list[Path] = []
    left_out: list[str] = []
    for path in paths:
        if path.is_dir():
            found, findings = scans_below(path)
            files += found
            left_out += [finding.reason.removesuffix(".") for finding in findings if finding.action == "left out"]
        elif path.is_file() or is_dicom(path):
            files.append(path)
        else:
            raise SourceError(f"{path}: there is no such scan or folder; check the path.")
    if not files:
        more = f" ({left_out[0]})" if left_out else ""
        raise SourceError(
            f"{', '.join(map(str, paths))}: no scan was found here{more}; "
            f"give DICOM or files of {', '.join(SCAN_ENDINGS)}."
        )
    names: dict[str, Path] = {}
    for file in files:
        other = names.setdefault(case_name(file), file)
        if other != file:
            raise SourceError(f"{file}: {other} has the same name, and one result would replace the other; rename one.")
    return list(names.values())
