"""Files appear whole or not at all; folders are written into by one process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxmim.files import atomic_write, lock_folder, write_text


def test_a_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "table.csv"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent  # the same file system, so that the replacement is one stroke
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("written", [True, False])
def test_nothing_half_written_is_left_and_what_was_there_stays(
    tmp_path: Path, error: type[BaseException], written: bool
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("before")

    def stopped() -> None:
        with atomic_write(path) as temporary:
            if written:
                temporary.write_text("half")
            raise error

    with pytest.raises(error):
        stopped()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_written_as_utf8_over_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "before")
    write_text(path, "96³ → 216")
    assert path.read_bytes() == "96³ → 216".encode()


def test_one_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    with (
        lock_folder(tmp_path / "new", ValueError("first")),
        pytest.raises(ValueError, match="second"),
        lock_folder(tmp_path / "new", ValueError("second")),
    ):
        raise AssertionError
    with lock_folder(tmp_path / "new", ValueError("third")):
        pass
