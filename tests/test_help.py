"""The help, and parsing of the command line: options, short options, examples, completion."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import voxmim
from command_line import flat, stub
from voxmim import api, cli, commands
from voxmim.tasks.given import Written

Maker = Callable[..., Path]
TRAINING = ["STORE", "OUT", "--recipe", "--resume", "--steps", "--batch", "--lr", "--seed", "--devices", "--precision"]
TRAINING += ["--accumulate", "--nodes", "--compile", "--accept-findings", "--quiet", "--log-every", "--hours", "--log"]
COMMANDS = {
    "demo": ["--data", "--out", "--seed", "--spacing", "--recipe", "--set"],
    "study": [
        "NAME",
        "--data",
        "--out",
        "--seeds",
        "--labels",
        "--recipe",
        "--scheduler",
        "--accept-findings",
        "--plan-only",
        "--set",
    ],
    "phantom": ["OUT", "--cases", "--seed", "--kind"],
    "download": ["NAME", "--out", "--mirror", "--yes"],
    "inspect": ["SOURCE", "--json", "--html", "--list", "--workers", "--match-channels", "--scheduler"],
    "prepare": [
        "SOURCE",
        "OUT",
        "--spacing",
        "--intensity",
        "--workers",
        "--seed",
        "--scheduler",
        "--match-channels",
        "--quiet",
    ],
    "view": ["PATH", "--port", "--no-browser"],
    "verify": ["STORE", "--workers", "--scheduler"],
    "split": ["STORE", "--splits", "--seed", "--fractions"],
    "pretrain": [*TRAINING, "--plan-only", "--set", "--init"],
    "finetune": [*TRAINING, "--plan-only", "--set", "--init", "--labels", "--task", "--classes", "--values", "--fold"],
    "evaluate": [
        "RUN",
        "DATA",
        "--split",
        "--tolerance",
        "--json",
        "--csv",
        "--classes",
        "--values",
        "--ensemble",
        "--all-components",
    ],
    "predict": ["RUN", "SCANS", "--out", "--probabilities", "--format", "--ensemble", "--all-components"],
    "embed": ["RUN", "SCANS", "--out", "--nearest"],
    "reconstruct": ["RUN", "SCANS", "--out", "--seed"],
    "import": ["FILE", "OUT", "--like", "--spacing", "--intensity", "--channels", "--licence", "--set"],
    "export": ["RUN", "OUT", "--to"],
    "recipes": ["NAME"],
    "doctor": [],
}


RunVoxmim = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_every_argument_and_no_other(run_voxmim: RunVoxmim, command: str) -> None:
    status, output, _ = run_voxmim(command, "--help")
    assert status == 0
    assert "default: ()" not in output
    for argument in COMMANDS[command]:
        line = re.search(rf"^│[ *]*{re.escape(argument)}(?= )(.*)│$", output, re.MULTILINE)
        assert line, argument
        assert re.search(r"[a-z]{2,}", line[1]), argument
    options = set(re.findall(r"^│[ *]*(--[a-z-]+)", output, re.MULTILINE))
    assert options == {argument for argument in COMMANDS[command] if argument.startswith("--")}


def test_an_example_of_each_command_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name, command in cli.COMMANDS.items():
        function = command.function or name
        stub(monkeypatch, function, lambda function=function, **given: called.append((function, given)))
        monkeypatch.setattr(commands, function, lambda result, given: 0)
    monkeypatch.setattr(api, "data_sets", list)
    for name, command in cli.COMMANDS.items():
        assert command.examples or name == "doctor"
        for example in command.examples:
            with pytest.raises(SystemExit) as exit_info:
                cli.main(example.split(" > ")[0].split()[1:])
            assert not exit_info.value.code, example
    given = dict(called)
    assert given["prepare"]["spacing"] == (1.5, 1.5, 2.0)
    assert given["finetune"] | {"init": Path("pretrained"), "labels": "12"} == given["finetune"]
    assert given["import_weights"]["settings"] == {"vit.heads": 12}
    assert given["predict"]["scans"][-1] == Path("scan.nii.gz")


def test_help_lists_all_commands_in_order_and_where_to_start(run_voxmim: RunVoxmim) -> None:
    status, output, _ = run_voxmim("--help")
    assert status == 0
    listed = re.findall(r"^│ ([a-z]+) ", output, re.MULTILINE)
    assert listed == list(cli.COMMANDS)
    assert set(listed) == set(COMMANDS)
    assert "Start with 'voxmim demo'" in flat(output)
    assert run_voxmim("--version")[1] == f"voxmim {voxmim.__version__}\n"


def test_options_may_be_given_anywhere(monkeypatch: pytest.MonkeyPatch, run_voxmim: RunVoxmim) -> None:
    called: list[dict[str, Any]] = []
    stub(monkeypatch, "predict", lambda **given: called.append(given) or Written([Path("a.nii.gz")], []))
    for arguments in ("run a b --out x", "run --out x a b", "--out x run a b", "run a -o x b", "run a b --out=x"):
        assert run_voxmim("predict", *arguments.split())[0] == 0
        assert (called[-1]["run"], called[-1]["scans"], called[-1]["out"]) == (
            Path("run"),
            (Path("a"), Path("b")),
            Path("x"),
        )


def test_a_renamed_option_is_still_accepted(monkeypatch: pytest.MonkeyPatch, run_voxmim: RunVoxmim) -> None:
    called: list[dict[str, Any]] = []
    stub(monkeypatch, "split", lambda **given: called.append(given) or {})
    status, _, error = run_voxmim("split", "store", "--shares", 0.2, 0.3)
    assert (status, error) == (0, "--shares is now --fractions.\n")
    assert called[0]["fractions"] == (0.2, 0.3)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(shell: str) -> None:
    script = cli.make_app().generate_completion(shell=shell)
    assert "finetune" in script
    assert "accept-findings" in script


def test_help_does_not_import_torch() -> None:
    script = (
        "import sys\n"
        "from voxmim.cli import COMMANDS, main\n"
        "for arguments in [['--help'], *([name, '--help'] for name in COMMANDS)]:\n"
        "    try:\n        main(arguments)\n"
        "    except SystemExit as left:\n        assert left.code == 0\n"
        "heavy = {'torch', 'monai', 'lightning', 'SimpleITK', 'matplotlib', 'scipy', 'numpy'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "demo" in process.stdout


def test_running_the_module_equals_running_the_command() -> None:
    process = subprocess.run([sys.executable, "-m", "voxmim", "recipes"], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert "tiny" in process.stdout
