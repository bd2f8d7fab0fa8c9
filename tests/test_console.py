"""Only the first process prints; all processes print errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Maker = Callable[..., Path]
SCRIPT = (
    "from pathlib import Path\n"
    "from voxmim.console import bar, done, fail, table\n"
    "with bar('working') as on_case:\n    on_case(1, 2)\n"
    "table('[a]', ['x'], [['[y]']])\n"
    "done(Path('there'), 'it')\n"
    "fail('[z] is wrong.')\n"
)


@pytest.mark.parametrize("rank", [{}, {"RANK": "0", "LOCAL_RANK": "0"}, {"SLURM_PROCID": "0"}])
def test_a_single_process_or_the_first_of_many_prints_everything(rank: dict[str, str]) -> None:
    process = run(rank)
    assert process.returncode == 2
    for text in ("working", "[a]", "[y]", "done: it: there"):
        assert text in process.stdout
    assert process.stderr == "error: [z] is wrong.\n"


@pytest.mark.parametrize(
    "rank", [{"RANK": "2", "LOCAL_RANK": "0"}, {"LOCAL_RANK": "1"}, {"NODE_RANK": "1"}, {"SLURM_PROCID": "3"}]
)
def test_other_processes_print_only_errors(rank: dict[str, str]) -> None:
    process = run(rank)
    assert (process.returncode, process.stdout, process.stderr) == (2, "", "error: [z] is wrong.\n")


def run(rank: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if "RANK" not in key and "SLURM" not in key}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment | rank, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_characters_that_the_console_cannot_encode_are_escaped(
    encoding: str, tiny_source: Maker, tmp_path: Path
) -> None:
    source = tiny_source(cases=3)
    (source / "imagesTr" / "case_0.nii.gz").write_bytes(b"junk")
    for folder in ("imagesTr", "labelsTr"):
        (source / folder / "case_0.nii.gz").rename(source / folder / "肝臓.nii.gz")
    process = subprocess.run(
        [sys.executable, "-m", "voxmim", "inspect", source, "-j", "1", "--json", "a.json", "--html", "a.html"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "400"},
        capture_output=True,
    )
    assert process.returncode == 1, process.stderr
    assert (tmp_path / "a.json").is_file()
    assert (tmp_path / "a.html").is_file()
    assert ("肝臓" if encoding == "utf-8" else "\\u809d\\u81d3") in process.stdout.decode(encoding)


def test_a_file_name_that_is_not_utf_8_is_escaped(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from voxmim.console import done, escape_unencodable\n"
        "from voxmim.files import write_text\n"
        "escape_unencodable()\n"
        "done(Path(sys.argv[1]), 'it')\n"
        "write_text(Path('page.html'), sys.argv[1])\n"
    )
    run = subprocess.run([sys.executable, "-c", script, name], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout == "done: it: caf\\udce9\n", run.stderr
    assert (tmp_path / "page.html").read_text() == "caf\\udce9"
