"""Detection rate and false alarms of the check for mirrored label maps and mirrored scans in a source.

    python benchmarks/mirrored_labels.py SOURCE [--every 3]

For every third case, the label map is mirrored along one axis, or in a separate test the scan, and all cases are
checked again. Files are read only once: mirroring is applied to the facts that the check uses.
"""

from __future__ import annotations

import argparse
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from voxmim.doctor.facts import Facts
from voxmim.doctor.inspect import inspect_source
from voxmim.doctor.mirrors import mirrored_labels, mirrored_scans

SIDES = ("left and right", "front and back", "top and bottom")


def with_mirrored_label(facts: Facts, axis: int) -> Facts:
    """The facts of a case with a mirrored label map."""
    labels = {}
    for value, label in facts.labels.items():
        centre = [1 - position if i == axis else position for i, position in enumerate(label.centre)]
        labels[value] = label._replace(centre=(centre[0], centre[1], centre[2]))
    return replace(facts, labels=labels)


def with_mirrored_scan(facts: Facts, axis: int) -> Facts:
    """The facts of a case with a mirrored scan."""
    overview = np.flip(facts.coarse(), axis=axis).astype(np.uint8)
    return replace(facts, overview=b64encode(overview.tobytes()).decode())


def main() -> None:
    """Run the check on the original and the mirrored cases, and print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("source", type=Path, help="data source, as for 'voxmim inspect'")
    parser.add_argument("--every", type=int, default=3, help="mirror every n-th case (default: %(default)s)")
    options = parser.parse_args()
    facts = inspect_source(options.source).facts
    checks: tuple[tuple[str, Callable[[Facts, int], Facts], Callable[..., dict[str, set[int]]]], ...] = (
        ("label maps", with_mirrored_label, mirrored_labels),
        ("scans", with_mirrored_scan, mirrored_scans),
    )
    for kind, mirror, check in checks:
        print(f"{kind}: {len(check(facts))} of {len(facts)} flagged without mirroring")
        names = [name for name in list(facts)[:: options.every] if kind == "scans" or facts[name].labels]
        for axis, sides in enumerate(SIDES):
            results = [check({**facts, name: mirror(facts[name], axis)}) for name in names]
            detected = sum(axis in flagged.get(name, ()) for name, flagged in zip(names, results, strict=True))
            false_alarms = sum(len(flagged.keys() - {name}) for name, flagged in zip(names, results, strict=True))
            print(f"  {sides}: {detected} of {len(names)} detected, {false_alarms} false alarms")


if __name__ == "__main__":
    main()
