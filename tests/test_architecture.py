"""The packages: imports go downward only and without cycles; files are short and have docstrings."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "voxmim"


def test_imports_follow_the_contracts_in_pyproject() -> None:
    """Layers, cycles, and what networks and pretexts may import: [tool.importlinter] in pyproject.toml.

    In a separate process, since the linter configures logging.
    """
    lint = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    process = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_no_file_is_longer_than_400_lines(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}


def test_every_module_has_a_docstring() -> None:
    files = SOURCE.rglob("*.py")
    assert [str(file) for file in files if not ast.get_docstring(ast.parse(file.read_text()))] == []
