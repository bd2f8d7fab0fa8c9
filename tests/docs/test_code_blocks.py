"""Every code block of the documentation is run here on small data, or marked as not run and only parsed."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from command_line import parsed
from conftest import TINY_RECIPE, TINY_TRAINING
from voxmim.cli import COMMANDS, main
from voxmim.recipe import make_recipe, write_recipe

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs" / "studies" / "README.md"]
CODE = ("sh", "console", "python")
LANGUAGES = (*CODE, "text", "json")
QUICK = {"phantom": "--cases 6", "prepare": "--workers 1"}  # replace the options on the page


class Block(NamedTuple):
    """A fenced block: its page, language, text and mark ("", "not run" or "run by FILE")."""

    page: str
    language: str
    text: str
    mark: str


def blocks() -> list[Block]:
    fence = re.compile(r"^(?: *<!-- (not run|run by \S+) -->\n)? *```(\S*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    return [
        Block(str(page.relative_to(ROOT)), match[2], match[3], match[1] or "")
        for page in PAGES
        for match in fence.finditer(page.read_text())
    ]


def commands(text: str) -> list[list[str]]:
    """The voxmim commands of a block, without comments; lines that end with a backslash are joined."""
    lines = [line.removeprefix("$ ") for line in text.replace("\\\n", " ").splitlines()]
    bare = [re.sub(r"^(torchrun .*-m|srun .*?(?=voxmim)|ssh \S+ \S+ \S+) ?", "", line) for line in lines]
    return [shlex.split(line, comments=True) for line in bare if re.match(r"voxmim\b", line)]


def test_every_block_has_a_known_language() -> None:
    assert [block for block in blocks() if block.language not in LANGUAGES] == []


def test_tests_named_in_marks_exist() -> None:
    named = {block.mark.removeprefix("run by ") for block in blocks() if block.mark.startswith("run by ")}
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_json_blocks_are_valid_json() -> None:
    for block in blocks():
        if block.language == "json":
            json.loads(block.text)


def test_every_documented_command_can_be_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    documented = [(block.page, words) for block in blocks() if block.language in CODE for words in commands(block.text)]
    assert len(documented) > 60
    for page, (_, *arguments) in documented:
        if any("$" in word for word in arguments):
            continue
        assert arguments[0] in COMMANDS, (page, arguments)
        assert parsed(arguments).command, (page, arguments)


def quick(words: list[str]) -> list[str]:
    """The command for small data, with a recipe of two steps instead of any other."""
    option, *value = QUICK.get(words[0], "").split() or [""]
    if option in words:
        at = words.index(option)
        words = [*words[:at], *words[at + 2 :]]
    return [*("recipe.yaml" if word == "demo" else word for word in words), *filter(None, [option]), *value]


def run(block: Block) -> None:
    if block.language == "python":
        exec(compile(block.text, block.page, "exec"), {"__name__": "__main__", "voxmim": __import__("voxmim")})
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        for _, *words in commands(line):
            with pytest.raises(SystemExit) as exit_info:
                main(quick(words))
            assert not exit_info.value.code, (block.page, words)
        if line.startswith("python "):
            subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True)


def test_every_unmarked_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tutorial runs first, since the other pages use its folders."""
    pandas = pytest.importorskip("pandas", reason="the extra export is not installed")
    viewed: list[str] = []
    monkeypatch.setattr("voxmim.viewer.server.serve", lambda collection, *_: viewed.append(collection.kind))
    monkeypatch.chdir(tmp_path)
    pandas.DataFrame({"case": ["a"], "embedding": [[0.5, 1.0]]}).to_parquet("embeddings.parquet")
    short = {**TINY_TRAINING, "steps": 2}
    write_recipe(tmp_path / "recipe.yaml", make_recipe({**TINY_RECIPE, "pretrain": short, "finetune": short}))
    chosen = [block for block in blocks() if block.language in CODE and not block.mark]
    chosen.sort(key=lambda block: block.page != "docs/tutorial.md")
    pages = {block.page for block in chosen}
    assert pages == {"docs/tutorial.md", "docs/watch.md", "docs/weights.md", "docs/export.md", "README.md"}
    for block in chosen:
        run(block)
    assert viewed == ["store", "run", "run"]
    assert Path("labels/phantom_000.nii.gz").is_file()
