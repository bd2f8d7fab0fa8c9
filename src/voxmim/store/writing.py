"""Writing a store: each case atomically, by one process at a time.

A case's entry is also written into its image file, which is written last. So a store is valid when `prepare` is
interrupted, and its index can be rebuilt from the files.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from voxmim.errors import StoreError
from voxmim.files import atomic_write, lock_folder
from voxmim.store.format import SAMPLES
from voxmim.store.index import Case, write_errors

_CHUNK, _BLOCK = (128, 128, 128), (16, 16, 32)  # voxels; larger blocks decompress more voxels outside a crop


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Lock the store at `path`, which is created if it is missing, and remove temporary files of killed processes.

    Raises StoreError if another process is changing it, or the folder cannot be written to.
    """
    busy = StoreError(f"{path}: another process is changing this store; wait for its end, or stop it.")
    with ExitStack() as stack:
        with write_errors(path):
            stack.enter_context(lock_folder(path, busy))
        for file in unfinished_files(path):
            file.unlink(missing_ok=True)
        yield


def unfinished_files(path: Path) -> list[Path]:
    """The temporary files of a process that was killed (or is still writing)."""
    return sorted(file for folder in ("", "images", "labels") for file in (path / folder).glob(".*-*.*"))


def digest_of(image: np.ndarray, label_map: np.ndarray | None) -> str:
    """A short hash of prepared voxels and labels."""
    digest = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8)
    if label_map is not None:
        digest.update(np.ascontiguousarray(label_map).data)
    return digest.hexdigest()


def write_case(path: Path, case: Case, image: np.ndarray, label_map: np.ndarray | None) -> Case:
    """Write a case, (C, X, Y, Z) int16 or float16 and (X, Y, Z) uint8, into the store at `path`.

    Returns its entry with counts and digest. Raises StoreError if it cannot be written.
    """
    counts: dict[int, int] = {}
    if label_map is not None:
        samples, counts = _sample_labels(label_map)
        _write_array(path / "labels" / f"{case.name}.b2nd", label_map, {"samples": samples})
    case = replace(case, counts=counts, digest=digest_of(image, label_map))
    _write_array(path / "images" / f"{case.name}.b2nd", image, {"case": json.dumps(asdict(case))})
    return case


def remove_case(path: Path, name: str) -> None:
    """Delete the files of a case that the index no longer lists."""
    with write_errors(path):
        for folder in ("images", "labels"):
            (path / folder / f"{name}.b2nd").unlink(missing_ok=True)


def written_cases(path: Path) -> Iterator[Case]:
    """The entries of all cases in the store's folder; raises StoreError if a file is damaged."""
    yield from map(written_case, sorted((path / "images").glob("[!.]*.b2nd")))


def written_case(file: Path) -> Case:
    """The entry in an image file of a store; raises StoreError if the file is missing or damaged."""
    try:
        array = blosc2.open(str(file), mode="r")  # vlmeta is only valid as long as the array
        return Case.from_dict(json.loads(array.schunk.vlmeta["case"]))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        wrong = "is missing" if not file.exists() else f"is damaged ({error})"
        raise StoreError(f"{file}: this file of the store {wrong}; delete it and run again.") from None


def _sample_labels(label_map: np.ndarray) -> tuple[dict[str, list[int]], dict[int, int]]:
    """Evenly spaced voxels of each label (flattened rows of 3), and each label's voxel count."""
    samples, counts = {}, {}
    for value in np.unique(label_map):
        if value == 0:
            continue
        voxels = np.flatnonzero(label_map == value)
        sample = voxels[np.linspace(0, len(voxels) - 1, min(SAMPLES, len(voxels))).astype(int)]
        samples[str(value)] = np.stack(np.unravel_index(sample, label_map.shape), axis=1).ravel().tolist()
        counts[int(value)] = len(voxels)
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
    # Written from memory, because Blosc2 does not report why it cannot write.
    with write_errors(file), atomic_write(file) as temporary:
        temporary.write_bytes(stored.to_cframe())
