"""Writing a store: each case whole or not at all, by one process at a time.

A case's entry is written into its image file too, and the image file is put in place last: a store is therefore
always valid, whatever stopped its making, and its index can be made again from the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from voxmim.errors import StoreError
from voxmim.files import atomic_write, lock_folder, write_text
from voxmim.findings import Finding
from voxmim.store.format import INDEX, SAMPLES, Case, Preparation

_CHUNK, _BLOCK = (128, 128, 128), (16, 16, 32)  # voxels; larger blocks unpack more that a crop does not need


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Be the one process that changes the store at `path`, which is made where it is missing.

    What dead processes left half-written is removed first.

    Raises:
        StoreError: another process is at it, or the folder cannot be written to.
    """
    busy = StoreError(f"{path}: another process is changing this store; wait for its end, or stop it.")
    with ExitStack() as held:
        with _told(path):
            held.enter_context(lock_folder(path, busy))
        for file in half_written(path):
            file.unlink(missing_ok=True)
        yield


def half_written(path: Path) -> list[Path]:
    """The files of a store that did not get their names, since a process died (or is still at it)."""
    return sorted(file for folder in ("", "images", "labels") for file in (path / folder).glob(".*-*.*"))


def digest_of(image: np.ndarray, label_map: np.ndarray | None) -> str:
    """A short hash of prepared voxels and labels."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8)
    if label_map is not None:
        digest.update(np.ascontiguousarray(label_map).data)
    return digest.hexdigest()


def write_case(path: Path, case: Case, image: np.ndarray, label_map: np.ndarray | None) -> Case:
    """Put one prepared case into the store at `path`; it is there whole or not at all.

    Args:
        path: the store's folder.
        case: its entry; counts and digest are filled in here.
        image: (C, X, Y, Z) int16 or float16.
        label_map: (X, Y, Z) uint8 or None.

    Returns:
        the entry as written.

    Raises:
        StoreError: there is no room, or no right to write.
    """
    counts: dict[int, int] = {}
    if label_map is not None:
        samples, counts = _sample_labels(label_map)
        _write_array(path / "labels" / f"{case.name}.b2nd", label_map, {"samples": samples})
    case = replace(case, counts=counts, digest=digest_of(image, label_map))
    _write_array(path / "images" / f"{case.name}.b2nd", image, {"case": json.dumps(asdict(case))})
    return case


def remove_case(path: Path, name: str) -> None:
    """Take the files of a case, which the index no longer names, out of the store at `path`."""
    with _told(path):
        for folder in ("images", "labels"):
            (path / folder / f"{name}.b2nd").unlink(missing_ok=True)


def written_cases(path: Path) -> Iterator[Case]:
    """Yield the entry of every case that lies whole in the store's folder.

    Raises:
        StoreError: a file is damaged.
    """
    yield from map(written_case, sorted((path / "images").glob("[!.]*.b2nd")))


def written_case(file: Path) -> Case:
    """The entry that an image file of a store holds.

    Raises:
        StoreError: the file is missing or damaged.
    """
    try:
        array = blosc2.open(str(file), mode="r")  # named, since the notes die with their array
        return Case.from_dict(json.loads(array.schunk.vlmeta["case"]))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        wrong = "is missing" if not file.exists() else f"is damaged ({error})"
        raise StoreError(f"{file}: this file of the store {wrong}; delete it and run again.") from None


def read_index(path: Path) -> dict[str, Any] | None:
    """The index of the store in a folder as it is written, even if it holds no case yet; None where there is none.

    Raises:
        StoreError: the index is damaged.
    """
    file = path / INDEX
    try:
        index: dict[str, Any] = json.loads(file.read_text())
        index["preparation"] = Preparation.from_dict(index["preparation"])
        index["cases"] = [Case.from_dict(entry) for entry in index["cases"]]
        index["findings"] = [Finding.from_dict(entry) for entry in index.get("findings", ())]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file}: the index is damaged ({error!r}); delete it and run again.") from None
    return index


def write_index(
    path: Path,
    name: str,
    preparation: Preparation,
    labels: Mapping[int, str],
    cases: Iterable[Case],
    seed: int = 0,
    regions: Mapping[str, Sequence[int]] | None = None,
    licence: str = "",
    resplit: bool = False,
    findings: Iterable[Finding] = (),
) -> None:
    """Write the store's index in one stroke.

    `seed` is that of the split, `licence` the data set's own note, and `resplit` says that the splits are the store's
    own, whatever those of its sources are; `findings` are of the files that it was made of. What was seen of a case by
    itself stands in its image file alone, so that many cases are opened quickly.

    Raises:
        StoreError: there is no room, or no right to write.
    """
    index = {
        "format": 1,
        "name": name,
        "licence": licence,
        "preparation": asdict(preparation),
        "seed": seed,
        "resplit": resplit,
        "labels": {str(value): label for value, label in labels.items()},
        "regions": {name: list(values) for name, values in (regions or {}).items()},
        "findings": [asdict(finding) for finding in findings],
        "cases": [asdict(replace(case, facts=None, findings=())) for case in sorted(cases, key=lambda case: case.name)],
    }
    with _told(path / INDEX):
        write_text(path / INDEX, json.dumps(index, indent=1))


def _sample_labels(label_map: np.ndarray) -> tuple[dict[str, list[int]], dict[int, int]]:
    """Evenly spread voxels of each label (flattened rows of 3), and each label's voxel count."""
    samples, counts = {}, {}
    for value in np.unique(label_map):
        if value == 0:
            continue
        where = np.flatnonzero(label_map == value)
        pick = np.linspace(0, len(where) - 1, min(SAMPLES, len(where))).astype(int)
        samples[str(value)] = np.stack(np.unravel_index(where[pick], label_map.shape), axis=1).ravel().tolist()
        counts[int(value)] = len(where)
    return samples, counts


def _write_array(file: Path, array: np.ndarray, meta: Mapping[str, Any]) -> None:
    lead = (1,) * (array.ndim - 3)
    stored = blosc2.asarray(
        np.ascontiguousarray(array),
        chunks=(*lead, *map(min, array.shape[-3:], _CHUNK)),
        blocks=(*lead, *map(min, array.shape[-3:], _BLOCK)),
        cparams={"codec": blosc2.Codec.LZ4, "filters": [blosc2.Filter.BITSHUFFLE], "clevel": 5},
        contiguous=True,
    )
    for key, value in meta.items():
        stored.schunk.vlmeta[key] = value
    # Packed in memory, because Blosc2 does not say why it could not write.
    with _told(file), atomic_write(file) as temporary:
        temporary.write_bytes(stored.to_cframe())


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """What keeps a file from being written, in one sentence."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{file}: cannot be written ({error.strerror or error}); see to it and run again, what is there is kept."
        ) from None
