"""Findings: faults and oddities of a source's files, and what is done about them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from voxmim.errors import ScanError

Action = Literal["used", "repaired", "left out"]

# The kinds of findings on a file.
KINDS = {
    "unreadable": "it cannot be read as an image",
    "cut off": "it ends before its voxels do, or is damaged",
    "not finite": "some voxels are NaN or infinite",
    "constant": "every voxel of a channel has the same value",
    "4D": "it holds more volumes than there are channels",
    "channels": "the scan lacks channels, or they are too few",
    "tiny": "it has few voxels along an axis",
    "huge": "it has more voxels than are read",
    "wrong orientation": "its header contradicts itself, or it is mirrored compared with the other scans",
    "no orientation": "its header does not tell left from right",
    "spacing outlier": "its voxel size is far from the others'",
    "intensity rule": "its values do not fit CT or MR, whichever it is taken for",
    "label map": "it looks like a label map, not like a scan",
    "dicom series": "slices are missing, doubled, tilted or uneven, or of several orientations",
    "no scan": "it is a localizer, a secondary capture, a segmentation or a dose",
    "name": "its name is not UTF-8, is that of another file, or is not as BIDS has it",
    "label": "this label map belongs to no scan, or to several",
    "failed": "reading or preparing it failed, for example for lack of memory",
    "duplicate": "another scan has the same voxels",
    "empty label": "its label map holds only background",
    "unknown label": "it has a label value that the source does not list",
    "rare label": "it has a label value that no other case has",
    "not integers": "its label values are not whole numbers from 0 to 255",
    "other grid": "its voxels do not lie where those of its scan, or of its first channel, do",
    "other axes": "its axes run another way than its scan's, over the same voxels",
    "flipped label": "its labels are mirrored compared with those of the other cases",
    "patient in two splits": "its patient has scans in another split, too",
}
# Used but probably wrong: training refuses to start until the user has decided.
DOUBTFUL = frozenset({"wrong orientation", "intensity rule", "label map", "flipped label", "patient in two splits"})


@dataclass(frozen=True)
class Finding:
    """One finding on one file."""

    file: str  # path of the scan or label map
    kind: str  # of `KINDS`
    reason: str  # one sentence that begins with the file
    action: Action  # what is done about it

    @property
    def unresolved(self) -> bool:
        """Whether the file is probably wrong but used."""
        return self.action == "used" and self.kind in DOUBTFUL

    @classmethod
    def of(cls, file: object, kind: str, text: str, action: Action = "left out") -> "Finding":
        """A finding on a file; the reason is the file and the text."""
        return cls(str(file), kind, f"{file}: {text}", action)

    @classmethod
    def of_error(cls, file: object, error: ScanError) -> "Finding":
        """The finding on a file that is left out because of an error."""
        return cls(str(file), error.kind, str(error), "left out")


def sound(findings: Iterable[Finding]) -> bool:
    """Whether nothing is left out (other than files that are no scans), and no finding is unresolved."""
    return not any(each.unresolved or (each.action == "left out" and each.kind != "no scan") for each in findings)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The findings without duplicates, sorted by file and kind."""
    return sorted(dict.fromkeys(findings), key=lambda finding: (finding.file, finding.kind, finding.reason))
