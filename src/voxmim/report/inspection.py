"""The page of an inspection: the findings, and statistics of the scans."""

import shlex
from collections import Counter
from pathlib import Path

import numpy as np

from voxmim.doctor.facts import PERCENTILES
from voxmim.doctor.inspect import Inspection
from voxmim.report.contact import contact_sheet
from voxmim.report.figures import label_colour
from voxmim.report.page import Page, Picture, Table, write_page
from voxmim.report.plots import Histogram
from voxmim.text import counted

_AXES = ("left to right", "back to front", "bottom to top")
_ENDS = {"0": "lowest", "50": "half below", "100": "highest"}
_MAX_LABELS = 12  # with a histogram


def inspection_page(file: Path, inspection: Inspection) -> None:
    """Write the page of an inspection atomically."""
    source, facts = inspection.source, inspection.facts
    labelled = [each for each in facts.values() if each.labels]
    note = "What is in doubt is used, but training waits until it is mended, taken out or accepted (--accept-findings)."
    findings = Table("Findings", ["kind", "file", "reason", "what is done"], finding_rows(inspection), note)
    orientations = Counter(each.orientation for each in facts.values()).most_common()
    page = Page(
        title=f"Inspection of {source.name}",
        lead=[verdict(inspection)],
        facts=[
            ("folder", str(source.path)),
            ("files read", f"{len(inspection.files):,}"),
            ("cases that can be prepared", f"{len(facts):,} of {len(source.cases):,}"),
            ("with labels", f"{len(labelled):,}"),
            ("channels", ", ".join(source.channels)),
            ("intensity", f"{inspection.intensity.upper()}, as guessed"),
            ("orientations of the files", ", ".join(f"{name} ({count:,})" for name, count in orientations)),
        ],
        tables=[*([findings] if findings.rows else []), *([_fingerprint(inspection)] if facts else [])],
        plots=_histograms(inspection),
        pictures=[_contact(inspection)] if inspection.slices else [],
        commands=[f"voxmim inspect {shlex.quote(str(source.path))} --html {shlex.quote(str(file))}"],
        headings={
            "facts": "Source",
            "results": "Findings and fingerprint",
            "plots": "Distributions",
            "pictures": "Contact sheet",
        },
    )
    write_page(file, page)


def verdict(inspection: Inspection) -> str:
    """A summary of the findings in one or two sentences."""
    findings = inspection.findings
    if not findings:
        return f"Nothing is wrong with {counted(len(inspection.files), 'file')}."
    actions = Counter(finding.action for finding in findings)
    parts = [f"{actions[action]:,} {action}" for action in ("left out", "repaired", "used") if actions[action]]
    found, files = counted(len(findings), "finding"), counted(len(inspection.files), "file")
    text = f"{found} in {files}: {', '.join(parts)}."
    doubtful = sum(finding.unresolved for finding in findings)
    return f"{text} In doubt: {doubtful:,}; training waits until they are resolved." if doubtful else text


def finding_rows(inspection: Inspection) -> list[list[str]]:
    """Kind, file (relative to the source's folder), reason and action of each finding, the most serious first."""
    rows = []
    for finding in sorted(inspection.findings, key=lambda each: (not each.unresolved, each.action != "left out")):
        path, root = Path(finding.file), inspection.source.path
        short = str(path.relative_to(root) if path.is_relative_to(root) else path)
        action = f"{finding.action}, in doubt" if finding.unresolved else finding.action
        rows.append([finding.kind, short, finding.reason.removeprefix(f"{finding.file}: "), action])
    return rows


def _fingerprint(inspection: Inspection) -> Table:
    found = inspection.fingerprint()
    rows = [[f"voxel size, {axis} (mm)", *_three(part)] for axis, part in zip(_AXES, found["spacing_mm"], strict=True)]
    rows += [[f"voxels, {axis}", *_three(part)] for axis, part in zip(_AXES, found["shape"], strict=True)]
    for channel, parts in found["intensity_percentiles"].items():
        rows += [[f"{channel}, {_ENDS.get(at, f'{at} % below')}", *_three(part)] for at, part in parts.items()]
    rows += [
        [f"{name}, in {counted(part['cases'], 'case')} (ml)", *_three(part)]
        for name, part in found["label_volumes_ml"].items()
    ]
    return Table("Fingerprint", ["over all cases", "least", "median", "greatest"], rows)


def _histograms(inspection: Inspection) -> list[Histogram]:
    """Histograms of the values that differ between scans."""
    scans, unit = list(inspection.facts.values()), "HU" if inspection.intensity == "ct" else "the scan's units"
    plots = []
    for i, axis in enumerate(_AXES):
        plots.append(Histogram(f"Voxel size, {axis}", "mm", [facts.spacing[i] for facts in scans]))
    for i, axis in enumerate(_AXES):
        plots.append(Histogram(f"Extent, {axis}", "mm", [facts.shape[i] * facts.spacing[i] for facts in scans]))
    median = PERCENTILES.index(50)
    for i, channel in enumerate(inspection.source.channels):
        values = [facts.percentiles[i][median] for facts in inspection.complete()]
        plots.append(Histogram(f"Median of {channel}", unit, values))
    for value in sorted({value for facts in scans for value in facts.labels})[:_MAX_LABELS]:
        volumes = [facts.labels[value].volume / 1000 for facts in scans if value in facts.labels]
        plots.append(Histogram(f"Volume of {inspection.source.labels.get(value, f'label {value}')}", "ml", volumes))
    return [plot for plot in plots if len(plot.values) > 1 and np.ptp(plot.values) > 1e-6 * max(map(abs, plot.values))]


def _contact(inspection: Inspection) -> Picture:
    faulty = {finding.file for finding in inspection.findings}
    marked = [case.name for case in inspection.source.cases if faulty & set(map(str, case.files))]
    labels = [plane.label for plane in inspection.slices.values() if plane.label is not None]
    values = sorted({int(value) for label in labels for value in np.unique(label)})
    names, shown = inspection.source.labels, f"{len(inspection.slices)} of {counted(len(inspection.facts), 'case')}"
    return Picture(
        "Middle slices",
        contact_sheet(inspection.slices, inspection.intensity, marked),
        f"{shown}, seen from below: the patient's right is on the left. Where there are labels, the slice lies in the "
        "middle of them. Framed are cases with a finding.",
        [(names.get(value, f"label {value}"), label_colour(value)) for value in values if value][:_MAX_LABELS],
    )


def _three(part: dict[str, float]) -> list[str]:
    return [f"{part[key]:,.0f}" if abs(part[key]) >= 1000 else f"{part[key]:.4g}" for key in ("min", "median", "max")]
