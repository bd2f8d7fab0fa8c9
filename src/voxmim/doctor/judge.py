"""Reading one case, with findings on its files.

A case is left out if its scan or one of its channels is left out; if its label map is left out, it is unlabelled.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from voxmim.doctor.facts import Facts, measure
from voxmim.doctor.reading import judge_channels, judge_label
from voxmim.findings import Finding
from voxmim.images.grid import Grid, Volume
from voxmim.sources import SourceCase


@dataclass(frozen=True, eq=False)
class Judged:
    """A case and the findings on it."""

    findings: tuple[Finding, ...]
    image: Volume | None = None  # the present channels on one grid; None if the case is left out
    label: np.ndarray | None = None  # (X, Y, Z) uint8 on the same grid; None without, or if it is left out
    facts: Facts | None = None  # None if the case is left out


def judge_case(case: SourceCase, channels: Sequence[str], known: Collection[int] = (), match: bool = False) -> Judged:
    """Read a case; faults become findings, never errors.

    `known` are the label values that the source lists, or empty. With `match`, channels with another grid are
    interpolated to that of the first; otherwise the case is left out.
    """
    try:
        return _judge(case, channels, known, match)
    except Exception as error:  # one bad file must not end the work on the others
        text = f"it could not be judged ({error!r}); fix the cause and run again."
        return Judged((Finding.of(case.images[0], "failed", text),))


def process_died(case: SourceCase) -> Finding:
    """The finding on a case whose process died while reading or preparing it."""
    text = "its process died, perhaps out of memory; run again with fewer workers."
    return Finding.of(case.images[0], "failed", text)


def _judge(case: SourceCase, channels: Sequence[str], known: Collection[int], match: bool) -> Judged:
    first, count = case.images[0], len(channels) - len(case.missing)
    findings: list[Finding] = []
    if case.missing:
        lacking = ", ".join(channels[channel] for channel in case.missing)
        text = f"case {case.name} lacks {lacking}, and serves pre-training only."
        findings.append(Finding.of(first, "channels", text, "used"))
    image = judge_channels(case.images, count, match, findings)
    label = None
    if case.label is not None:
        label = judge_label(case.label, None if image is None else Grid.of(image), first, known, findings)
    if image is None:
        return Judged(tuple(findings))
    return Judged(tuple(findings), image, label, measure(image, label))
