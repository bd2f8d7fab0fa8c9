"""How many mirrored label maps, and mirrored scans, the data doctor finds in a source, and whether it blames good ones.

    python benchmarks/mirrored_labels.py SOURCE [--every 3]

Every file is read once. Then, of every third case, the label map alone is mirrored along one axis, and in another turn
the scan alone, and all cases are judged again; this is done on the facts that are noted of each case, which mirroring
changes in a known way.
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
    """What would be noted if the label map were mirrored."""
    labels = {}
    for value, label in facts.labels.items():
        centre = [1 - place if own == axis else place for own, place in enumerate(label.centre)]
        labels[value] = label._replace(centre=(centre[0], centre[1], centre[2]))
    return replace(facts, labels=labels)


def with_mirrored_scan(facts: Facts, axis: int) -> Facts:
    """What would be noted if the scan were mirrored."""
    view = np.flip(facts.coarse(), axis=axis).astype(np.uint8)
    return replace(facts, overview=b64encode(view.tobytes()).decode())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("source", type=Path, help="what 'voxmim inspect' takes")
    parser.add_argument("--every", type=int, default=3, help="mirror every n-th case (default: %(default)s)")
    options = parser.parse_args()
    facts = inspect_source(options.source).facts
    tries: tuple[tuple[str, Callable[[Facts, int], Facts], Callable[..., dict[str, set[int]]]], ...] = (
        ("label maps", with_mirrored_label, mirrored_labels),
        ("scans", with_mirrored_scan, mirrored_scans),
    )
    for what, mirror, judge in tries:
        print(f"{what}: {len(judge(facts))} of {len(facts)} blamed as they are")
        names = [name for name in list(facts)[:: options.every] if what == "scans" or facts[name].labels]
        for axis, sides in enumerate(SIDES):
            found = [judge({**facts, name: mirror(facts[name], axis)}) for name in names]
            seen = sum(axis in one.get(name, ()) for name, one in zip(names, found, strict=True))
            wrong = sum(len(one.keys() - {name}) for name, one in zip(names, found, strict=True))
            print(f"  {sides}: {seen} of {len(names)} found, {wrong} others blamed")


if __name__ == "__main__":
    main()
