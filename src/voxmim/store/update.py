"""How a store grows: what of a source lies there already, what is to be done, and what stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from voxmim.doctor.cohort import judge_cohort, left_out
from voxmim.errors import StoreError
from voxmim.findings import Finding, in_order
from voxmim.images.formats.dicom import SERIES_ENDING
from voxmim.sources import Source, SourceCase
from voxmim.sources.splits import along, strictest
from voxmim.store.format import Case, Preparation
from voxmim.store.writing import read_index, write_index, written_cases

_HEADERS = (".hdr", ".img", ".mhd", ".nhdr")  # whose voxels, or header, lie in another file
_PARTNERS = (".hdr", ".img", ".raw", ".zraw", ".raw.gz")


@dataclass(frozen=True)
class Growth:
    """What a source means for a store.

    Attributes:
        source: the source.
        out: the store's folder.
        preparation: what is done to every scan.
        done: cases of the source that lie there, made of the files as they are now.
        others: cases that the source does not have; they stay.
        todo: cases of the source that are new or whose files have changed.
        told: what the index says besides: its name, labels, regions, licence, seed.
        left: what the store says of files of other sources that were left out.
    """

    source: Source
    out: Path
    preparation: Preparation
    done: list[Case]
    others: list[Case]
    todo: list[SourceCase]
    told: Mapping[str, Any]
    left: list[Finding]

    def write_index(
        self, prepared: Sequence[Case] = (), refused: Sequence[Finding] = ()
    ) -> tuple[list[Finding], dict[str, str]]:
        """Write the index of what lies there and what was `prepared` since, all judged beside each other.

        Args:
            prepared: cases that were put into the store.
            refused: the findings of cases that were not.

        Returns:
            all findings, and of each case that is left out for what the others are, the reason.
        """
        cases = sorted([*self.done, *self.others, *prepared], key=lambda case: case.name)
        known = [_as_source(case) for case in cases]
        facts = {case.name: case.facts for case in cases if case.facts is not None}
        how, named = self.preparation, self.told["labels"]
        beside = judge_cohort(known, facts, how.channels, named, how.intensity)
        gone = left_out(known, beside)
        own = [finding for case in cases for finding in case.findings]
        findings = in_order([*self.source.findings, *self.left, *refused, *own, *beside])
        kept = [case for case in cases if case.name not in gone]
        labels = dict(sorted(({value: f"label {value}" for case in kept for value in case.counts} | named).items()))
        write_index(self.out, preparation=how, cases=kept, findings=findings, **{**self.told, "labels": labels})
        return findings, gone


def look(source: Source, out: Path, preparation: Preparation) -> Growth:
    """Compare a source with the store at `out`.

    Splits are those of the source, but for a store that was split anew, which keeps its own. A case that is new to the
    store goes where the other scans of its patient are.

    Raises:
        StoreError: the store was made otherwise, or a case, a label or a region of the source is another in the store.
    """
    index = read_index(out)
    if index is not None and index["preparation"] != preparation:
        raise StoreError(f"{out}: this store was made meanwhile, in another way; use another folder.")
    before: dict[str, Case] = {} if index is None else {case.name: case for case in index["cases"]}
    wanted = {case.name: case for case in source.cases}
    resplit = index is not None and index.get("resplit", False)
    kept = {name: case for name, case in before.items() if resplit or name not in wanted}
    groups: dict[str, str] = {}
    for case in kept.values():
        groups[case.group] = strictest(case.split, groups.get(case.group, ""))

    def settled(case: SourceCase) -> SourceCase:
        if case.name in kept:
            return replace(case, split=kept[case.name].split)
        return replace(case, split=along(case, groups[case.group])) if groups.get(case.group) else case

    cases = {name: settled(case) for name, case in wanted.items()}
    done, others = [], []
    for case in written_cases(out):
        now = cases.get(case.name)
        if now is None:
            others.append(replace(case, split=before.get(case.name, case).split))
        elif _is_of(case, now) and (case.label is None or (out / "labels" / f"{case.name}.b2nd").is_file()):
            done.append(replace(case, split=now.split, group=now.group))
    finished = {case.name for case in done}
    todo = [case for name, case in cases.items() if name not in finished]
    told = _told(source, out, index if others else None)
    left = [] if index is None else _left(index["findings"], source)
    return Growth(source, out, preparation, done, others, todo, {**told, "resplit": resplit}, left)


def _as_source(case: Case) -> SourceCase:
    label = None if case.label is None else Path(case.label)
    return SourceCase(case.name, tuple(map(Path, case.image)), label, case.split, case.missing, case.group)


def _left(findings: Iterable[Finding], source: Source) -> list[Finding]:
    """Those of files that were left out and that the source, which tells its own anew, has nothing to do with."""
    own = {finding.file for finding in source.findings}
    own |= {str(file) for case in source.cases for file in (*case.images, case.label) if file is not None}

    def of_source(file: str) -> bool:
        return file in own or Path(file).is_relative_to(source.path)

    return [one for one in findings if one.action == "left out" and not of_source(one.file)]


def paths(case: SourceCase) -> tuple[tuple[str, ...], str | None]:
    """The files of a case as its entry names them: images, label map."""
    return tuple(map(str, case.images)), None if case.label is None else str(case.label)


def stamps(case: SourceCase) -> tuple[tuple[int, int], ...]:
    """Size and time of change of each file of a case: images, then the label map."""
    return tuple(map(_stamp, case.images if case.label is None else (*case.images, case.label)))


def _is_of(entry: Case, case: SourceCase) -> bool:
    """Whether an entry was made of the case's files as they are now; refuses another case of the same name."""
    images, label = paths(case)
    if entry.image == images and entry.stamps:  # whose label map may have been left out
        return entry.label in (None, label) and entry.stamps == stamps(case)
    if (entry.image, entry.label) == (images, label):
        return True
    if not set(entry.image) & set(images) and any(_files(Path(image)) for image in entry.image):
        raise StoreError(
            f"{images[0]}: the store has a case {case.name} already, of {entry.image[0]}; rename one of them, or use "
            "another store."
        )
    return False


def _stamp(path: Path) -> tuple[int, int]:
    found = [file.stat() for file in _files(path)]
    return sum(each.st_size for each in found), max((each.st_mtime_ns for each in found), default=0)


def _files(path: Path) -> list[Path]:
    """The files behind a path: itself and its other half, or all of the folder of a DICOM series."""
    if path.is_dir() or path.suffix == SERIES_ENDING:
        folder = path if path.is_dir() else path.parent
        return [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    halves = [path.with_suffix(ending) for ending in _PARTNERS] if path.suffix.lower() in _HEADERS else []
    return [file for file in {path, *halves} if file.is_file()]


def _told(source: Source, out: Path, index: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the index is to say besides its cases: as the source does, after what the store said of its other cases."""
    if index is None:
        return {
            "name": source.name,
            "labels": source.labels,
            "seed": source.seed,
            "regions": source.regions,
            "licence": source.licence,
        }
    labels = {int(value): name for value, name in index["labels"].items()}
    regions = {name: tuple(values) for name, values in index.get("regions", {}).items()}
    named = {value: name for value, name in labels.items() if name != f"label {value}"}
    both: list[tuple[str, dict[Any, Any], dict[Any, Any]]] = [("label value", named, source.labels)]
    both.append(("region", regions, source.regions))
    for kind, here, there in both:
        for key in here.keys() & there.keys():
            if here[key] != there[key]:
                raise StoreError(
                    f"{source.path}: {kind} {key} is {there[key]}, but {here[key]} in the store {out}, which has cases "
                    "of other sources; make them the same, or use another store."
                )
    licences = dict.fromkeys(text for text in (index.get("licence", ""), source.licence) if text)
    return {
        "name": index["name"],
        "labels": labels | source.labels,
        "seed": index["seed"],
        "regions": regions | source.regions,
        "licence": "; ".join(licences),
    }
