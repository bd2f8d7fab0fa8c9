"""A folder of the Brain Imaging Data Structure (BIDS): patients, their sessions, and a suffix for each channel.

```
SOURCE/dataset_description.json
SOURCE/sub-01/anat/sub-01_T1w.nii.gz                    or sub-01/ses-1/anat/...; of the folders anat, ct and pet
SOURCE/derivatives/NAME/sub-01/anat/sub-01_dseg.nii.gz  a label map: ..._dseg, ..._seg or ..._mask, at any depth
```
The suffixes (T1w, FLAIR, ...) are the channels. A patient's session is a case; or, where it has a suffix twice, each of
its runs (acquisitions, ...) is one, of the images whose names differ only in the suffix.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from voxmim.errors import SourceError
from voxmim.findings import Finding
from voxmim.images.volume import case_name, is_scan
from voxmim.images.walk import files_below
from voxmim.sources.jsons import read_object
from voxmim.sources.source import Source, SourceCase

_FOLDERS = ("anat", "ct", "pet")
_NO_SCAN = ("defacemask", "mask", "dseg", "seg")  # suffixes of label maps and the like
_LABELS = ("dseg", "seg", "mask")  # of label maps of one case, the one with the earlier suffix is taken
_OF_LABEL = ("label-", "desc-", "space-", "res-", "den-", "atlas-", "seg-")  # what a label map's name may add


def bids(path: Path) -> Source:
    """The cases of such a folder; raises SourceError if there is no scan in a patient's folder."""
    described = read_object(path / "dataset_description.json")
    scans = [(folder, file) for folder in path.glob("sub-*") for file in files_below(folder) if is_scan(file)]
    scans = [(folder, file) for folder, file in scans if file.parent.name in _FOLDERS and _suffix(file) not in _NO_SCAN]
    images, findings = [], []
    for folder, file in scans:
        if file.name.startswith(f"{folder.name}_"):
            images.append(file)
        else:
            findings.append(Finding.of(file, "name", f"its name does not begin with {folder.name}_, as in BIDS."))
    if not images:
        raise SourceError(f"{path}: there is no scan as sub-01/anat/sub-01_T1w.nii.gz, which BIDS has; put some there.")
    channels = tuple(sorted({_suffix(file) for file in images}))
    sessions: dict[str, list[Path]] = {}
    for file in sorted(images):
        sessions.setdefault("_".join(_entities(file, "sub-", "ses-")), []).append(file)
    grouped: dict[str, list[Path]] = {}
    for session, members in sessions.items():
        once = max(Counter(map(_suffix, members)).values()) == 1
        for file in members:
            grouped.setdefault(session if once else "_".join(_entities(file)), []).append(file)
    labels, left_out = _labels_of(path, grouped)
    cases = []
    for name, members in grouped.items():
        by_suffix = {_suffix(file): file for file in members}
        if len(by_suffix) == len(members):
            found = tuple(by_suffix[channel] for channel in channels if channel in by_suffix)
            missing = tuple(index for index, channel in enumerate(channels) if channel not in by_suffix)
            cases.append(SourceCase(name, found, labels.get(name), "", missing, name.split("_")[0]))
        else:
            listed = ", ".join(file.name for file in members)
            text = f"case {name} has two images of one suffix ({listed}); remove one."
            findings.append(Finding.of(members[0], "channels", text))
    return Source(
        path,
        str(described.get("Name") or path.name),
        channels,
        {},
        tuple(cases),
        licence=str(described.get("License") or ""),
        findings=(*findings, *left_out),
    )


def _labels_of(path: Path, grouped: dict[str, list[Path]]) -> tuple[dict[str, Path], list[Finding]]:
    """The label map of each case, from derivatives/; and those left out."""
    of_patient: dict[str, list[str]] = {}
    for name in grouped:
        of_patient.setdefault(name.split("_")[0], []).append(name)
    candidates: dict[str, list[Path]] = {}
    findings = []
    for file in files_below(path / "derivatives"):
        if not (file.name.startswith("sub-") and is_scan(file) and _suffix(file) in _LABELS):
            continue
        fitting = [name for name in of_patient.get(file.name.split("_")[0], ()) if _fits(file, grouped[name])]
        if len(fitting) == 1:
            candidates.setdefault(fitting[0], []).append(file)
        else:
            why = "fits several scans" if fitting else "has no scan"
            findings.append(Finding.of(file, "label", f"this label map {why} of the patient."))
    labels = {}
    for name, files in candidates.items():
        best = min(_LABELS.index(_suffix(file)) for file in files)
        chosen = [file for file in files if _suffix(file) == _LABELS[best]]
        if len(chosen) == 1:
            labels[name] = chosen[0]
        for file in files if len(chosen) > 1 else [file for file in files if file != chosen[0]]:
            text = f"this is one of {len(files)} label maps of case {name}; say in a CSV list which one to take."
            findings.append(Finding.of(file, "label", text))
    return labels, findings


def _fits(label: Path, images: Sequence[Path]) -> bool:
    """Whether all that a label map's name says, but for what is its own, is said of one of the images too.

    One in another space than the scan's own (``space-MNI152``) fits none.
    """
    own = [part for part in _entities(label) if not part.startswith(_OF_LABEL)]
    spaces = [part for part in _entities(label, "space-") if part not in ("space-orig", "space-scanner")]
    return not spaces and any(set(own) <= {*_entities(image), _suffix(image)} for image in images)


def _suffix(file: Path) -> str:
    return case_name(file).rpartition("_")[2]


def _entities(file: Path, *wanted: str) -> list[str]:
    """The parts of a file's name before its suffix, such as ``sub-01``; of the wanted kinds, or all."""
    return [part for part in case_name(file).split("_")[:-1] if not wanted or part.startswith(wanted)]
