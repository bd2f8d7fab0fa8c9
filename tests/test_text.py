"""Sizes and numbers in words."""

from __future__ import annotations

from pathlib import Path

import voxmim
from voxmim.text import counted


def test_one_is_singular() -> None:
    assert [counted(number, "label map") for number in (0, 1, 2)] == ["0 label maps", "1 label map", "2 label maps"]


def test_no_message_has_an_optional_plural() -> None:
    files = Path(voxmim.__file__).parent.rglob("*.py")
    assert [file.name for file in files if "(s)" in file.read_text() or "(es)" in file.read_text()] == []
