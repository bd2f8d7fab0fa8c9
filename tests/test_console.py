"""Of many processes, the first alone speaks; an error is told by whoever has it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = (
    "from pathlib import Path\n"
    "from voxmim.console import bar, done, fail, table\n"
    "with bar('working') as on_case:\n    on_case(1, 2)\n"
    "table('[a]', ['x'], [['[y]']])\n"
    "done(Path('there'), 'it')\n"
    "fail('[z] is wrong.')\n"
)


@pytest.mark.parametrize("rank", [{}, {"RANK": "0", "LOCAL_RANK": "0"}, {"SLURM_PROCID": "0"}])
def test_a_lone_process_or_the_first_of_many_says_everything(rank: dict[str, str]) -> None:
    done = run(rank)
    assert done.returncode == 2
    for text in ("working", "[a]", "[y]", "done: it: there"):
        assert text in done.stdout
    assert done.stderr == "error: [z] is wrong.\n"


@pytest.mark.parametrize(
    "rank", [{"RANK": "2", "LOCAL_RANK": "0"}, {"LOCAL_RANK": "1"}, {"NODE_RANK": "1"}, {"SLURM_PROCID": "3"}]
)
def test_any_other_process_tells_only_its_errors(rank: dict[str, str]) -> None:
    done = run(rank)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: [z] is wrong.\n")


def run(rank: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if "RANK" not in key and "SLURM" not in key}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment | rank, capture_output=True, text=True, check=False
    )
