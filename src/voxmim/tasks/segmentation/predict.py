"""Label maps for new scans, in the scans' own grids."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from voxmim.errors import ScanError, SourceError
from voxmim.images.components import remove_small_components
from voxmim.images.formats.dicom import is_dicom
from voxmim.images.formats.dicom_seg_write import write_segmentation
from voxmim.images.geometry import resample_probabilities
from voxmim.images.volume import Volume, write_volume
from voxmim.store.prepare import PreparedScan
from voxmim.tasks.given import Scan, Written, given_scans
from voxmim.tasks.scans import Progress, for_each
from voxmim.tasks.segmentation.inference import (
    Slab,
    average_slabs,
    joined,
    longest_axis,
    original_label_map,
    predict_slabs,
    prepared_label_map,
)
from voxmim.tasks.segmentation.structures import Structures
from voxmim.tasks.task import Predictor
from voxmim.weights.join import join_groups
from voxmim.weights.load import load_segmentor

CLEANED = "remove_small_components"  # in the metadata, the names of labels


class Segmentor(Predictor):
    """A trained segmentor, or an ensemble of several.

    Attributes:
        others: segmentors with other windows, whose probabilities are averaged with its own.
        count: the number of runs that its own network averages; 1 if it is no ensemble.
        cleaned: the values of the labels whose small components are removed from label maps.
    """

    def __init__(
        self,
        network: nn.Module,
        metadata: dict[str, Any],
        count: int = 1,
        others: Sequence["Segmentor"] = (),
        cleaned: Collection[str] = (),
    ) -> None:
        super().__init__(network, metadata)
        self.count, self.others = count, others
        self.cleaned = self.structures.values_of(cleaned)

    @classmethod
    def load(cls, *runs: Path | str, all_components: bool = False) -> Self:
        """Load a run folder or weights file, or several to average, onto a GPU if there is one.

        Small components are removed from the labels for which every run says so, or from none (`all_components`).
        """
        loaded = [load_segmentor(run) for run in runs]
        (first, count), *groups = join_groups(runs, loaded)
        others = [cls(*other, joined) for other, joined in groups]
        named = [set() if all_components else {*metadata.get(CLEANED, ())} for _, metadata in loaded]
        return cls(*first, count, others, set.intersection(*named))

    @property
    def structures(self) -> Structures:
        """The labels or regions that it distinguishes."""
        return Structures.from_metadata(self.metadata)

    def slabs(self, scan: PreparedScan, overlap: float | None = None) -> Iterator[Slab]:
        """The probabilities on the prepared grid (see `predict_slabs`); `overlap` replaces the recipe's."""
        own = predict_slabs(
            self.network,
            self.image(scan),
            self.crop,
            self.metadata["overlap"] if overlap is None else overlap,
            self.metadata["precision"],
            self.structures.activate,
        )
        if not self.others:
            return own
        slabs = [own, *(other.slabs(scan, overlap) for other in self.others)]
        counts = [self.count, *(other.count for other in self.others)]
        return average_slabs(slabs, counts, longest_axis(scan.grid.shape))

    def probabilities(self, scan: PreparedScan) -> np.ndarray:
        """(K, X, Y, Z) float32 on the prepared grid: of each label, background first, or of each region."""
        return joined(self.slabs(scan), scan.grid.shape).numpy()

    def prepared_label_map(self, scan: PreparedScan, overlap: float | None = None) -> np.ndarray:
        """(X, Y, Z) uint8 on the prepared grid; `overlap` replaces the recipe's."""
        label_map = prepared_label_map(self.slabs(scan, overlap), scan.grid.shape, self.structures)
        return remove_small_components(label_map, self.cleaned)

    def label_map(self, scan: PreparedScan) -> np.ndarray:
        """(X, Y, Z) uint8 on the scan's own grid; background outside the foreground box."""
        label_map = original_label_map(self.slabs(scan), scan.grid, scan.original, self.structures)
        return remove_small_components(label_map, self.cleaned)


ENDINGS = {"nifti": ".nii.gz", "dicom-seg": ".dcm"}  # of label maps, by their format


def predict(
    run: Path,
    scans: Sequence[Path],
    out: Path,
    probabilities: bool = False,
    on_case: Progress | None = None,
    label_format: str = "nifti",
    others: Sequence[Path] = (),
    all_components: bool = False,
) -> Written:
    """Segment scans and write ``CASE.nii.gz`` (or ``CASE.dcm``) for each, on the scan's own grid.

    The arguments are those of `Task.predict`. Scans that cannot be used are left out. Probabilities are 4D: one volume
    per label, background first, or one per region.

    Raises:
        SourceError: as `given_scans`, or a label map would replace a scan.
        ScanError: no scan can be used.
        WeightsError: the run has no segmentor.
    """
    ending = ENDINGS[label_format]
    segmentor = Segmentor.load(run, *others, all_components=all_components)
    found, left_out = given_scans(scans, segmentor.preparation.channels)
    scan_files = {path.resolve() for scan in found.values() for path in scan.images}
    for file in (out / f"{name}{ending}" for name in found):
        if file.resolve() in scan_files:
            raise SourceError(f"{file}: a label map would replace the scan; name another folder with --out.")

    def label(name: str, given: Scan) -> Path:
        scan, file = segmentor.prepare(*given), out / f"{name}{ending}"
        if probabilities:
            outside = None if segmentor.structures.regions else 0
            full = resample_probabilities(segmentor.probabilities(scan), scan.grid, scan.original, outside)
            write_volume(out / f"{name}_probabilities.nii.gz", Volume(full, scan.original.affine))
        if label_format == "nifti":
            write_volume(file, Volume(segmentor.label_map(scan)[None], scan.original.affine))
        elif is_dicom(given.images[0]):
            write_segmentation(file, given.images[0], segmentor.label_map(scan), segmentor.structures.labels)
        else:
            raise ScanError(
                f"{given.images[0]}: a DICOM segmentation must refer to a DICOM series, which this is not; write NIfTI."
            )
        return file

    written, failed = for_each(found, label, on_case)
    return Written(written.values(), [*left_out, *failed])
