"""Label maps for new scans, in the scans' own grids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from voxmim.errors import SourceError
from voxmim.networks.build import Segmentor as Network
from voxmim.networks.weights import load_segmentor
from voxmim.scans.geometry import resample_probabilities, resample_to_label_map
from voxmim.scans.intensity import window
from voxmim.scans.prepare import PreparedScan, prepare_scan
from voxmim.scans.volume import Volume, case_name, is_scan, write_volume
from voxmim.segmentation.inference import predict_probabilities
from voxmim.store import Preparation


@dataclass
class Segmentor:
    """A trained segmentor with all that it needs to label a scan from a file.

    Attributes:
        network: the weights, set to evaluation.
        preparation: what a scan must go through first.
        metadata: the rest of what the weights file tells.
    """

    network: Network
    preparation: Preparation
    metadata: dict[str, Any]

    @classmethod
    def load(cls, run: Path | str) -> Segmentor:
        """From a fine-tuning's run folder or a weights file, onto a GPU if there is one."""
        network, metadata = load_segmentor(run)
        if torch.cuda.is_available():
            network = network.cuda()
        return cls(network, Preparation.from_dict(metadata["preparation"]), metadata)

    @property
    def labels(self) -> dict[int, str]:
        """Name of each label value, background left out."""
        return {int(value): name for value, name in self.metadata["labels"].items()}

    def probabilities(self, scan: PreparedScan) -> np.ndarray:
        """(K, X, Y, Z) float32 label probabilities on the prepared grid, background first."""
        image = window(scan.image, self.preparation.intensity, tuple(self.metadata["window"]))
        x, y, z = self.metadata["crop"]
        return predict_probabilities(
            self.network, torch.from_numpy(image), (x, y, z), self.metadata["overlap"], self.metadata["precision"]
        ).numpy()

    def label_map(self, scan: PreparedScan) -> np.ndarray:
        """(X, Y, Z) uint8 on the scan's own grid; background outside the foreground box."""
        return resample_to_label_map(self.probabilities(scan), scan.grid, scan.original)


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
        scans: files, or folders whose scans are all taken; a scan of several channels is one 4D file.
        out: folder for the label maps.
        probabilities: write ``CASE_probabilities.nii.gz`` too: 4D, one volume per label, background first.
        on_case: called with the scans done and their number.

    Returns:
        the label maps written.

    Raises:
        SourceError: no scan was found, two have the same name, or a label map would replace its scan.
        ScanError: a scan cannot be used.
        WeightsError: the run holds no segmentor.
    """
    segmentor = Segmentor.load(run)
    written: list[Path] = []
    files = scan_files(scans)
    for path in files:
        if (out / f"{case_name(path)}.nii.gz").resolve() == path.resolve():
            raise SourceError(f"{path}: its label map would replace the scan; name another folder with --out.")
    for path in files:
        if on_case is not None:
            on_case(len(written), len(files))
        scan = prepare_scan((path,), segmentor.preparation)
        shares = segmentor.probabilities(scan)
        file = out / f"{case_name(path)}.nii.gz"
        labels = resample_to_label_map(shares, scan.grid, scan.original)
        write_volume(file, Volume(labels[None], scan.original.affine))
        if probabilities:
            full = resample_probabilities(shares, scan.grid, scan.original)
            write_volume(out / f"{case_name(path)}_probabilities.nii.gz", Volume(full, scan.original.affine))
        written.append(file)
    if on_case is not None:
        on_case(len(files), len(files))
    return written


def scan_files(paths: Sequence[Path]) -> list[Path]:
    """The scans among files and folders, each name once.

    Raises:
        SourceError: there is none, a path is missing, or two scans would be written to the same name.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if is_scan(file) and file.is_file())
        elif path.is_file():
            files.append(path)
        else:
            raise SourceError(f"{path}: there is no such scan or folder; check the path.")
    if not files:
        raise SourceError(f"{', '.join(map(str, paths))}: no scan was found here; give .nii or .nii.gz files.")
    names: dict[str, Path] = {}
    for file in files:
        other = names.setdefault(case_name(file), file)
        if other != file:
            raise SourceError(f"{file}: {other} has the same name, and one result would replace the other; rename one.")
    return list(names.values())
