"""A folder of the Brain Imaging Data Structure (BIDS): patients, their sessions, and a suffix for each channel.

```
SOURCE/dataset_description.json
SOURCE/sub-01/anat/sub-01_T1w.nii.gz                    or sub-01/ses-1/anat/...; of the folders anat, ct and pet
SOURCE/derivatives/NAME/sub-01/anat/sub-01_dseg.nii.gz  a label map: ..._dseg, ..._seg or ..._mask, at any depth
```
The suffixes (T1w, FLAIR, ...) are the channels. A case is a session of a patient; if a session has a suffix twice, its
runs (acquisitions, ...) are cases, of the images whose names differ only in the suffix.
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
_NO_SCAN = ("defacemask", "mask", "dseg", "seg")  # suffixes of files that are no scans
_LABELS = ("dseg", "seg", "mask")  # suffixes of label maps, in order of preference
_OF_LABEL = ("label-", "desc-", "space-", "res-", "den-", "atlas-", "seg-")  # entities of label maps only


def bids(path: Path) -> Source:
    """Find the cases of a BIDS folder; raises SourceError if there is no scan in a patient's folder."""
    description = read_object(path / "dataset_description.json")
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
        unique = max(Counter(map(_suffix, members)).values()) == 1
        for file in members:
            grouped.setdefault(session if unique else "_".join(_entities(file)), []).append(file)
    labels, left_out = _labels_of(path, grouped)
    cases = []
    for name, members in grouped.items():
        by_suffix = {_suffix(file): file for file in members}
        if len(by_suffix) == len(members):
            present = tuple(by_suffix[channel] for channel in channels if channel in by_suffix)
            missing = tuple(index for index, channel in enumerate(channels) if channel not in by_suffix)
            cases.append(SourceCase(name, present, labels.get(name), "", missing, name.split("_")[0]))
        else:
            listed = ", ".join(file.name for file in members)
            text = f"case {name} has two images of one suffix ({listed}); remove one."
            findings.append(Finding.of(members[0], "channels", text))
    return Source(
        path,
        str(description.get("Name") or path.name),
        channels,
        {},
        tuple(cases),
        licence=str(description.get("License") or ""),
        findings=(*findings, *left_out),
    )


def _labels_of(path: Path, grouped: dict[str, list[Path]]) -> tuple[dict[str, Path], list[Finding]]:
    """The label map of each case in derivatives/, and findings on those that are left out."""
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
    """Whether all entities of a label map's name, except `_OF_LABEL`, are those of one of the images.

    A label map in another space than the scan's own (``space-MNI152``) fits none.
    """
    own = [part for part in _entities(label) if not part.startswith(_OF_LABEL)]
    spaces = [part for part in _entities(label, "space-") if part not in ("space-orig", "space-scanner")]
    return not spaces and any(set(own) <= {*_entities(image), _suffix(image)} for image in images)


def _suffix(file: Path) -> str:
    return case_name(file).rpartition("_")[2]


def _entities(file: Path, *wanted: str) -> list[str]:
    """The entities in a file's name, such as ``sub-01``: those that begin with `wanted`, or all."""
    return [part for part in case_name(file).split("_")[:-1] if not wanted or part.startswith(wanted)]
