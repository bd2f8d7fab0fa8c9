"""Writing a cohort of phantoms: scans, label maps, classes and a split, in the layout of the Decathlon."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from voxmim.errors import SourceError, VoxmimError, nearest
from voxmim.files import atomic_folder, write_csv, write_json
from voxmim.images.grid import Volume
from voxmim.images.volume import write_volume
from voxmim.phantoms import head, trunk
from voxmim.phantoms.canvas import generator
from voxmim.text import counted


@dataclass(frozen=True)
class Kind:
    """A kind of phantom."""

    draw: Callable[[int], tuple[Volume, Volume]]  # from a seed to a scan and its label map
    class_of: Callable[[int, Volume], str]  # from a seed and the label map to the class of the scan as a whole
    channels: tuple[str, ...]  # their names
    labels: dict[int, str]  # name of each label value, background left out
    regions: dict[str, list[int]] = field(default_factory=dict)  # label values of each region; regions may overlap


KINDS = {
    "trunk": Kind(trunk.draw_trunk, lambda seed, _: trunk.contrast_phase(seed), ("CT",), trunk.LABELS),
    "head": Kind(
        head.draw_head,
        lambda _, labels: "tumour" if labels.array.any() else "healthy",
        head.SEQUENCES,
        head.LABELS,
        head.REGIONS,
    ),
}


def write_cohort(
    out: Path, cases: int, seed: int, on_case: Callable[[int, int], None] | None = None, kind: str = "trunk"
) -> None:
    """Write phantoms to the folder `out`, which appears only when it is complete; arguments as of `voxmim.phantom`.

    About 60 % of the cases are for training, 15 % for validation and 25 % for testing (splits.json); classes.csv has
    the class of each scan: the phase of the contrast agent (trunk), or whether there is a tumour (head).
    """
    rng = generator(seed)
    if kind not in KINDS:
        raise VoxmimError(f"'{kind}' is no kind of phantom ({', '.join(KINDS)}){nearest(kind, KINDS) or '.'}")
    if cases < 4:
        raise VoxmimError(
            f"{counted(cases, 'phantom')} cannot be split into train, val and test; ask for 4 cases or more."
        )
    occupied = SourceError(f"{out}: is not an empty folder; choose another one for the phantoms or empty it.")
    chosen, names = KINDS[kind], [f"phantom_{index:03d}" for index in range(cases)]
    classes = []
    with atomic_folder(out.resolve(), occupied) as temporary:
        for index, name in enumerate(names):
            image, labels = chosen.draw(seed * 1_000_003 + index)
            classes.append({"case": name, "class": chosen.class_of(seed * 1_000_003 + index, labels)})
            write_volume(temporary / "imagesTr" / f"{name}.nii.gz", image)
            write_volume(temporary / "labelsTr" / f"{name}.nii.gz", labels)
            if on_case:
                on_case(index + 1, cases)
        dataset = {
            "name": "voxmim phantoms",
            "channel_names": {str(index): channel for index, channel in enumerate(chosen.channels)},
            "labels": {"background": 0} | {name: value for value, name in chosen.labels.items()},
            **({"regions": chosen.regions} if chosen.regions else {}),
            "file_ending": ".nii.gz",
        }
        write_json(temporary / "dataset.json", dataset)
        write_json(temporary / "splits.json", _split(names, rng))
        write_csv(temporary / "classes.csv", classes)


def _split(names: list[str], rng: np.random.Generator) -> dict[str, list[str]]:
    """A random split with at least one case each for training, validation and testing."""
    order = [names[i] for i in rng.permutation(len(names))]
    test, val = max(1, round(0.25 * len(names))), max(1, round(0.15 * len(names)))
    parts = {"train": order[test + val :], "val": order[test : test + val], "test": order[:test]}
    return {part: sorted(cases) for part, cases in parts.items()} | {"unlabelled": []}
