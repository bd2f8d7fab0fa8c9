"""The update of a store from a source: the cases that are done, to be prepared, or of other sources."""

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
from voxmim.store.index import Case, Index, Preparation
from voxmim.store.writing import written_cases

_HEADERS = (".hdr", ".img", ".mhd", ".nhdr")  # formats of two files
_PARTNERS = (".hdr", ".img", ".raw", ".zraw", ".raw.gz")


@dataclass(frozen=True)
class Update:
    """The update of a store from a source."""

    source: Source
    done: list[Case]  # cases of the source that are in the store and whose files have not changed
    others: list[Case]  # cases of other sources, which stay
    todo: list[SourceCase]  # cases of the source that are new or whose files have changed
    index: Index  # the new index without cases
    dropped: list[Finding]  # findings on files of other sources that were left out

    def make_index(
        self, prepared: Sequence[Case] = (), failures: Sequence[Finding] = ()
    ) -> tuple[Index, dict[str, str]]:
        """The index of all cases, and the reason for each case that is left out after a comparison with the others.

        `prepared` are the new cases (duplicates have no digest), `failures` findings on cases that failed.
        """
        cases = sorted([*self.done, *self.others, *prepared], key=lambda case: case.name)
        as_source = [case.as_source() for case in cases]
        facts = {case.name: case.facts for case in cases if case.facts is not None}
        how = self.index.preparation
        compared = judge_cohort(as_source, facts, how.channels, self.index.labels, how.intensity)
        out = left_out(as_source, compared)
        for case in prepared:
            if not case.digest and case.name not in out:
                out[case.name] = f"{case.image[0]}: it has the voxels of a scan that could not be prepared; run again."
                failures = [*failures, Finding(case.image[0], "failed", out[case.name], "left out")]
        own = [finding for case in cases for finding in case.findings]
        findings = in_order([*self.source.findings, *self.dropped, *failures, *own, *compared])
        kept = [case for case in cases if case.name not in out]
        labels = {value: f"label {value}" for case in kept for value in case.counts} | dict(self.index.labels)
        return replace(self.index, cases=kept, labels=dict(sorted(labels.items())), findings=findings), out


def plan_update(source: Source, out: Path, preparation: Preparation) -> Update:
    """Compare a source with the store at `out`.

    Splits are those of the source, unless the store was split again. A new case joins the split of its patient. Raises
    StoreError if the store was prepared in another way, or a case, label or region of the source differs from the
    store's.
    """
    index = Index.read(out)
    if index is not None and index.preparation != preparation:
        raise StoreError(f"{out}: this store was made meanwhile, in another way; use another folder.")
    before = {} if index is None else {case.name: case for case in index.cases}
    names = {case.name for case in source.cases}
    resplit = index is not None and index.resplit
    fixed = {name: case for name, case in before.items() if resplit or name not in names}
    groups: dict[str, str] = {}
    for case in fixed.values():
        groups[case.group] = strictest(case.split, groups.get(case.group, ""))

    def with_split(case: SourceCase) -> SourceCase:
        if case.name in fixed:
            return replace(case, split=fixed[case.name].split)
        return replace(case, split=along(case.label, groups[case.group])) if groups.get(case.group) else case

    cases = {case.name: with_split(case) for case in source.cases}
    done, others = [], []
    for case in written_cases(out):
        now = cases.get(case.name)
        if now is None:
            others.append(replace(case, split=before.get(case.name, case).split))
        elif _is_current(case, now) and (case.label is None or (out / "labels" / f"{case.name}.b2nd").is_file()):
            done.append(replace(case, split=now.split, group=now.group, annotated=now.annotated))
    finished = {case.name for case in done}
    return Update(
        source,
        done,
        others,
        todo=[case for name, case in cases.items() if name not in finished],
        index=replace(_merged(source, out, preparation, index if others else None), resplit=resplit),
        dropped=[] if index is None else _dropped_elsewhere(index.findings, source),
    )


def paths(case: SourceCase) -> tuple[tuple[str, ...], str | None]:
    """The files of a case as strings: images, label map."""
    return tuple(map(str, case.images)), None if case.label is None else str(case.label)


def stamps(case: SourceCase) -> tuple[tuple[int, int], ...]:
    """Size and modification time of each file of a case: images, then the label map."""
    stats = [[file.stat() for file in _files(path)] for path in case.files]
    return tuple(
        (sum(each.st_size for each in files), max((each.st_mtime_ns for each in files), default=0)) for files in stats
    )


def _dropped_elsewhere(findings: Iterable[Finding], source: Source) -> list[Finding]:
    """The findings on left-out files of other sources."""
    own = {finding.file for finding in source.findings}
    own |= {str(file) for case in source.cases for file in case.files}
    return [
        finding
        for finding in findings
        if finding.action == "left out"
        and finding.file not in own
        and not Path(finding.file).is_relative_to(source.path)
    ]


def _is_current(entry: Case, case: SourceCase) -> bool:
    """Whether an entry was prepared from the case's files and they have not changed.

    Raises StoreError if it is another case of the same name.
    """
    images, label = paths(case)
    if entry.image == images and entry.stamps:
        return entry.label in (None, label) and entry.stamps == stamps(case)  # the label map may have been left out
    if (entry.image, entry.label) == (images, label):
        return True
    if not set(entry.image) & set(images) and any(_files(Path(image)) for image in entry.image):
        raise StoreError(
            f"{images[0]}: the store has a case {case.name} already, of {entry.image[0]}; rename one of them, or use "
            "another store."
        )
    return False


def _files(path: Path) -> list[Path]:
    """The files of an image: the file and its partner, or all in the folder of a DICOM series."""
    if path.is_dir() or path.suffix == SERIES_ENDING:
        folder = path if path.is_dir() else path.parent
        return [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    partners = [path.with_suffix(ending) for ending in _PARTNERS] if path.suffix.lower() in _HEADERS else []
    return [file for file in {path, *partners} if file.is_file()]


def _merged(source: Source, out: Path, preparation: Preparation, index: Index | None) -> Index:
    """The index without cases: that of the source, merged with that of the store if it has cases of other sources."""
    if index is None:
        return Index(source.name, preparation, source.labels, (), source.seed, source.regions, source.licence)
    named = {value: name for value, name in index.labels.items() if name != f"label {value}"}
    pairs: list[tuple[str, Mapping[Any, Any], Mapping[Any, Any]]] = [
        ("label value", named, source.labels),
        ("region", index.regions, source.regions),
    ]
    for kind, old, new in pairs:
        for key in old.keys() & new.keys():
            if old[key] != new[key]:
                raise StoreError(
                    f"{source.path}: {kind} {key} is {new[key]}, but {old[key]} in the store {out}, which has cases "
                    "of other sources; make them the same, or use another store."
                )
    return replace(
        index,
        cases=(),
        labels={**index.labels, **source.labels},
        regions={**index.regions, **source.regions},
        licence="; ".join(dict.fromkeys(text for text in (index.licence, source.licence) if text)),
    )
