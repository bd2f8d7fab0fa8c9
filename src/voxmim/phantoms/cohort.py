"""Phantoms: small scans of invented people with their label maps, for trying things out; no download, no patient.

There are two kinds: CT scans of a trunk with six organs, drawn here, and MR scans of a head with a tumour
(phantom_head.py). Trunks differ in build, organs, contrast agent, posture and field of view; the anatomy
(phantom_anatomy.py) is what they have in common.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from voxmim.errors import SourceError, VoxmimError, nearest
from voxmim.images.volume import Volume, write_volume
from voxmim.phantoms import head as phantom_head
from voxmim.phantoms.shapes import AIR, Canvas, generator, lay_out, turn
from voxmim.phantoms.trunk import LABELS, Build, Person, draw_build

__all__ = ["KINDS", "LABELS", "Kind", "contrast_phase", "draw_phantom", "write_cohort"]

# Which way the three array axes run, as signs of right, anterior, superior: LPS, RAS, LAS and LPI.
_ORIENTATIONS = ((-1, -1, 1), (1, 1, 1), (-1, 1, 1), (-1, -1, -1))


def draw_phantom(seed: int) -> tuple[Volume, Volume]:
    """Draw one case; the same seed gives the same case, and consecutive seeds differ in orientation.

    Args:
        seed: 0 or more.

    Returns:
        The scan, (1, X, Y, Z) int16 in HU, about 72 x 60 x 64 voxels of about 5 mm, and its label map, uint8 with
        the values of `LABELS` and 0 for the rest, on the same grid.

    Raises:
        VoxmimError: the seed is negative.
    """
    person = _person(seed)
    canvas, rng = person.canvas, person.rng
    person.draw()
    image = _scan(canvas, person.skin, rng)
    affine = np.diag([*canvas.spacing, 1.0])
    affine[:3, 3] = -0.5 * np.array(canvas.x.shape) * canvas.spacing + rng.uniform(-60, 60, 3)
    signs = _ORIENTATIONS[seed % len(_ORIENTATIONS)]
    return turn(image[None], affine, signs), turn(canvas.labels[None], affine, signs)


def contrast_phase(seed: int) -> str:
    """The class of a trunk as a whole: ``plain``, ``arterial`` or ``venous``, by what of it the contrast agent lit."""
    return ("plain", "arterial", "venous")[_person(seed).agent.phase]


@dataclass(frozen=True)
class Kind:
    """A kind of phantom.

    Attributes:
        draw: from a seed to a scan and its label map.
        class_of: from a seed and the label map to the class of the scan as a whole.
        channels: their names.
        labels: name of each label value, background left out.
        regions: name of each region to the label values it is the union of; regions may overlap.
    """

    draw: Callable[[int], tuple[Volume, Volume]]
    class_of: Callable[[int, Volume], str]
    channels: tuple[str, ...]
    labels: dict[int, str]
    regions: dict[str, list[int]] = field(default_factory=dict)


KINDS = {
    "trunk": Kind(draw_phantom, lambda seed, _: contrast_phase(seed), ("CT",), LABELS),
    "head": Kind(
        phantom_head.draw_head,
        lambda _, labels: "tumour" if labels.array.any() else "healthy",
        phantom_head.SEQUENCES,
        phantom_head.LABELS,
        phantom_head.REGIONS,
    ),
}


def write_cohort(
    out: Path, cases: int, seed: int, on_case: Callable[[int, int], None] | None = None, kind: str = "trunk"
) -> None:
    """Write phantoms and a split of them to the folder `out`, in the layout of the Medical Segmentation Decathlon.

    A head's four sequences lie in one 4D file, and the dataset.json of heads names the regions of the tumour. The file
    classes.csv tells the class of each scan as a whole: the phase of the contrast agent (trunk), or whether there is a
    tumour (head). About 60 % of the cases are for training, 15 % for validation and 25 % for testing. The folder
    appears whole or not at all.

    Args:
        out: a folder that does not exist or is empty.
        cases: how many, at least 4.
        seed: 0 or more.
        on_case: called after each case with the number of cases done and of all.
        kind: ``trunk`` or ``head``.

    Raises:
        VoxmimError: there are too few cases, the seed is negative, or there is no such kind.
        SourceError: `out` is a file, or a folder that is not empty.
    """
    out = Path(out)
    order = generator(seed)
    if kind not in KINDS:
        raise VoxmimError(f"'{kind}' is no kind of phantom ({', '.join(KINDS)}){nearest(kind, KINDS) or '.'}")
    chosen = KINDS[kind]
    if cases < 4:
        raise VoxmimError(f"{cases} phantom(s) cannot be split into train, val and test; ask for 4 cases or more.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise SourceError(f"{out}: is not an empty folder; choose another one for the phantoms or empty it.")
    names = [f"phantom_{index:03d}" for index in range(cases)]
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{os.getpid()}-{out.name}")
    classes = []
    try:
        for index, name in enumerate(names):
            image, labels = chosen.draw(seed * 1_000_003 + index)
            classes.append([name, chosen.class_of(seed * 1_000_003 + index, labels)])
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
        _write_json(temporary / "dataset.json", dataset)
        _write_json(temporary / "splits.json", _split(names, order))
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([["case", "class"], *classes])
        (temporary / "classes.csv").write_text(table.getvalue(), encoding="utf-8")
        if out.exists():
            out.rmdir()
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _person(seed: int) -> Person:
    """The person of a seed, laid into the scanner and not yet drawn."""
    rng = generator(seed)
    build = draw_build(rng)
    return Person(_place(build, rng), build, rng)


def _place(build: Build, rng: np.random.Generator) -> Canvas:
    """Lay the person into the scanner: a grid around the body, and for each voxel its place in the body."""
    room = np.array([2 * build.half_width, 2 * build.half_depth]) + rng.uniform(12, 60)
    plane = np.clip(rng.uniform(4.5, 5.5), room[0] / 80, room[0] / 62)
    height = rng.uniform(265, 335)
    spacing = np.array([plane, plane, np.clip(rng.uniform(4, 6), height / 72, height / 54)])
    shape = np.ceil(np.array([*room, height]) / spacing).astype(int)
    # The trunk is long, so where the scan begins decides what of it is seen; sideways it is only off centre a little.
    middle = np.array([*rng.uniform(-6, 6, 2), 0.0])
    middle[1] -= 22
    middle[2] = rng.uniform(30, 90) - height / 2
    return lay_out(shape, spacing, middle, 7, (5, 4, 6), rng)


def _scan(canvas: Canvas, skin: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(X, Y, Z) int16 HU as a scanner gives it: slightly blurred, with grainy noise that is strongest deep inside."""
    blurred = ndimage.gaussian_filter(canvas.values[0], rng.uniform(0.35, 0.6))
    white = rng.standard_normal(canvas.x.shape, dtype=np.float32)
    # Reconstruction passes a middle band of frequencies: neighbours are correlated, wide areas are not.
    grain = ndimage.gaussian_filter(white, (0.6, 0.6, 0.3)) - ndimage.gaussian_filter(white, (1.6, 1.6, 0.3))
    strength = rng.uniform(7, 20) * (0.5 + np.clip(-skin / 100, 0, 1))
    noisy = blurred + grain / grain.std() * strength
    return np.rint(np.clip(noisy, AIR - 24, 3071)).astype(np.int16)


def _split(names: list[str], rng: np.random.Generator) -> dict[str, list[str]]:
    """Deal the cases out at random: at least one each for training, validation and testing."""
    order = [names[i] for i in rng.permutation(len(names))]
    test, val = max(1, round(0.25 * len(names))), max(1, round(0.15 * len(names)))
    parts = {"train": order[test + val :], "val": order[test : test + val], "test": order[:test]}
    return {part: sorted(cases) for part, cases in parts.items()} | {"unlabelled": []}


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
