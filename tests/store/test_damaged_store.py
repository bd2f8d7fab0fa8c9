"""Files of a store that are damaged while it is open are detected."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stores import CT, SHAPE, labels, make, voxels
from voxmim.errors import StoreError
from voxmim.store.format import Case, Store
from voxmim.store.writing import write_case


def other_shape(file: Path) -> None:
    shape = (SHAPE[0] + 9, SHAPE[1], SHAPE[2] - 5)
    write_case(file.parents[1], Case("a", "train", shape, ("x",)), voxels(CT, shape), labels(shape))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "cut off": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: file.write_bytes(b""),
    "noise": lambda file: file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size)),
    "of another shape": other_shape,
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("folder", ["images", "labels"])
@pytest.mark.parametrize("opened", [True, False])
def test_a_damaged_file_is_detected_at_once(tmp_path: Path, kind: str, folder: str, opened: bool) -> None:
    store = make(tmp_path)
    read = store.crop if folder == "images" else store.label_crop
    if opened:
        read("a", (1, 2, 3), (4, 5, 6))
    DAMAGE[kind](tmp_path / folder / "a.b2nd")
    for _ in range(2):  # cached parts of the file must not be returned either
        with pytest.raises(StoreError, match=rf"{folder}/a\.b2nd: this file of the store is (missing|damaged \(.*\));"):
            read("a", (1, 2, 3), (4, 5, 6))
    if folder == "labels":
        with pytest.raises(StoreError, match=r"a\.b2nd: this file of the store is"):
            store.samples("a")
    assert store.crop("b", (1, 2, 3), (4, 5, 6)).shape == (1, 4, 5, 6)


def test_a_scan_that_was_prepared_again_is_read_again(tmp_path: Path) -> None:
    store = make(tmp_path)
    before = store.crop("a", (0, 0, 0), (8, 8, 8))
    write_case(tmp_path, store.cases["a"], voxels(CT) + np.int16(1), labels())
    np.testing.assert_array_equal(store.crop("a", (0, 0, 0), (8, 8, 8)), before + 1)


def test_a_flipped_bit_gives_an_error_or_voxels_of_the_same_shape(tmp_path: Path) -> None:
    """Most flips in compressed data are not detected, since Blosc2 has no checksums."""
    make(tmp_path)
    file, rng, messages = tmp_path / "images" / "a.b2nd", np.random.default_rng(0), []
    whole = file.read_bytes()
    for trial in range(60):
        flipped = bytearray(whole)
        at = int(rng.integers(200 if trial % 2 else len(whole)))
        flipped[at] ^= 1 << int(rng.integers(8))
        file.write_bytes(flipped)
        try:
            image = Store(tmp_path).image("a")
        except StoreError as error:
            messages.append(str(error))
        else:
            assert (image.shape, image.dtype) == ((1, *SHAPE), np.int16)
    assert 10 < len(messages) < 60
    assert all(text.startswith(f"{file}: this file of the store is damaged (") for text in messages)
