"""The rooms of the package: imports run downward only, in no circle, through small files that say what they are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from importlinter import cli

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "voxmim"


def test_imports_keep_to_the_contracts_of_pyproject(capfd: pytest.CaptureFixture[str]) -> None:
    """Layers, circles, and what networks and pretexts may import: [tool.importlinter] in pyproject.toml."""
    status = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == 0, capfd.readouterr().out


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_no_file_is_longer_than_400_lines(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}


def test_every_module_has_a_docstring() -> None:
    files = SOURCE.rglob("*.py")
    assert [str(file) for file in files if not ast.get_docstring(ast.parse(file.read_text()))] == []
