"""Files are written atomically, and only one process at a time writes into a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from voxmim.files import atomic_write, lock_folder, write_text


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "table.csv"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent  # on the same file system, so that replacing is atomic
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("written", [True, False])
def test_a_failed_write_keeps_the_existing_file_and_leaves_no_other(
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


def test_text_is_written_as_utf8_and_replaces_the_existing_file(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "before")
    write_text(path, "96³ → 216")
    assert path.read_bytes() == "96³ → 216".encode()


def test_only_one_process_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    with (
        lock_folder(tmp_path / "new", ValueError("first")),
        pytest.raises(ValueError, match="second"),
        lock_folder(tmp_path / "new", ValueError("second")),
    ):
        raise AssertionError
    with lock_folder(tmp_path / "new", ValueError("third")):
        pass
