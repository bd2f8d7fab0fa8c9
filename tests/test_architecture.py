"""The rooms of the house: imports run downward only, in no circle, through small files that say what they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "voxmim"

# Room: the other rooms that it may import. A room is a file or a folder directly under src/voxmim, and `""` is the
# package itself with its public names. What a volume, a file's format and an intensity are lies below the rest of
# scans/, so that store and crops can speak of them.
_METHOD = {"errors", "files", "settings", "recipe", "networks", "pretext"}
_SCANS = {"scans.formats", "scans.volume", "scans.intensity", "scans.findings", "scans.facts"}
_REPORT = _METHOD | _SCANS | {"workers", "store", "storing", "scans", "crops", "augment"}
_CLASSIFICATION = _REPORT | {"report", "segmentation"}
_TRAINING = _CLASSIFICATION | {"classification"}
_STUDIES = _TRAINING | {"training"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "workers": {"errors"},
    "settings": set(),
    "recipe": {"errors", "files", "settings"},
    "datasets": {"errors"},
    "scans.formats": {"errors"},
    "scans.volume": {"errors", "files", "scans.formats"},
    "scans.intensity": {"errors"},
    "scans.findings": set(),
    "scans.facts": set(),
    "store": {"errors", "files", "scans.volume", "scans.findings", "scans.facts"},
    "storing": {"errors", "files", "store", "scans.findings"},
    "scans": {"errors", "files", "workers", "store", "storing"} | _SCANS,
    "crops": {"errors", "scans.intensity", "store"},
    "augment": {"errors", "settings", "crops"},
    "networks": {"errors", "files", "settings"},
    "pretext": {"errors", "settings", "networks"},
    "report": _REPORT,
    "segmentation": _REPORT | {"report"},
    "classification": _CLASSIFICATION,
    "training": _TRAINING,
    "studies": _STUDIES,
    "api": _STUDIES | {"studies", "datasets"},
    "": {"api"},
    "console": set(),
    "arguments": {"errors", ""},
    "cli": {"errors", "recipe", "console", "arguments", "", "api"},
    "__main__": {"cli"},
}
# networks/ and pretext/ know nothing of files, of Lightning or of the command line.
METHOD_ROOMS = ("networks", "pretext")
OUTSIDE = {"SimpleITK", "blosc2", "lightning", "pytorch_lightning", "safetensors", "pathlib"}
OUTSIDE |= {"rich", "jsonargparse", "argparse"}
FILES_ARE_ITS_TASK = {"networks.weights": {"pathlib", "safetensors"}}

Sources = dict[str, str]


def read_sources(root: Path) -> Sources:
    """Module name under the package ("" for the package itself, "scans" for its `__init__`) to source text."""
    sources = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return sources


def packages_of(sources: Sources) -> set[str]:
    """The modules that are folders."""
    return {""} | {name.rpartition(".")[0] for name in sources}


def imported(name: str, sources: Sources) -> Iterator[str]:
    """Every dotted name that the module imports, wherever in the file it stands; relative ones made absolute."""
    for node in ast.walk(ast.parse(sources[name])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = f"voxmim.{name}".rstrip(".").split(".")
                up = node.level - (name in packages_of(sources))
                base = ".".join([*here[: len(here) - up], *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules_imported(name: str, sources: Sources) -> set[str]:
    """The package's own modules that `name` imports; `from voxmim.a import f` counts as `a`, `f` being no module."""
    found = set()
    for target in imported(name, sources):
        if target.split(".")[0] == "voxmim":
            inner = target.removeprefix("voxmim").lstrip(".")
            while inner and not ({inner} & (sources.keys() | packages_of(sources) | ALLOWED.keys())):
                inner = inner.rpartition(".")[0]
            found.add(inner)
    return found


def room_of(name: str) -> str:
    """The room that a module lies in."""
    while name and name not in ALLOWED and "." in name:
        name = name.rpartition(".")[0]
    return name


def upward_imports(sources: Sources) -> list[str]:
    """Each import of a room that the importing room may not know."""
    faults = []
    for name in sources:
        room = room_of(name)
        if room not in ALLOWED:
            faults.append(f"{name}: an unknown room; give it its place in ALLOWED")
            continue
        for target in sorted(modules_imported(name, sources)):
            if room_of(target) not in {room} | ALLOWED[room]:
                faults.append(f"{name} imports {target or 'the package itself'}")
    return faults


def outside_imports(sources: Sources) -> list[str]:
    """Each import of files, Lightning or the command line from a room of the method."""
    return [
        f"{name} imports {target}"
        for name in sources
        if name.split(".")[0] in METHOD_ROOMS
        for target in imported(name, sources)
        if target.split(".")[0] in OUTSIDE - FILES_ARE_ITS_TASK.get(name, set())
    ]


def circle(sources: Sources) -> list[str]:
    """One chain of modules that import each other in a circle, or an empty list.

    Importing `a.b` runs the `__init__` of `a` first, which counts unless the importer lives in `a` itself.
    """
    edges = {}
    for name in sources:
        targets = modules_imported(name, sources)
        folders = {target.rpartition(".")[0] for target in targets} - {""}
        edges[name] = (targets | {f for f in folders if not f"{name}.".startswith(f"{f}.")}) - {name}
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_imports_run_downward_only() -> None:
    faults = upward_imports(read_sources(SOURCE))
    assert not faults, faults


def test_networks_and_pretexts_know_no_files_no_lightning_no_command_line() -> None:
    faults = outside_imports(read_sources(SOURCE))
    assert not faults, faults


def test_no_circles() -> None:
    found = circle(read_sources(SOURCE))
    assert not found, found


def test_the_table_of_rooms_is_itself_without_circles() -> None:
    order = list(TopologicalSorter(ALLOWED).static_order())  # raises CycleError
    assert order[0] == "errors"


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks"])
def test_no_file_is_longer_than_400_lines(folder: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}


def test_every_public_module_says_what_it_is() -> None:
    sources = read_sources(SOURCE)
    public = [name for name in sources if not name.split(".")[-1].startswith("_")]
    assert [name for name in public if not ast.get_docstring(ast.parse(sources[name]))] == []


# The checks above can fail: each is shown a house with that one fault.


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("scans.check", "from voxmim.training.run import Run"),
        ("scans.check", "from ..cli import main"),
        ("scans.check", "from .. import cli"),
        ("scans.check", "def f():\n    import voxmim.crops"),
        ("store", "from voxmim.scans.prepare import prepare"),
        ("store", "from .scans import prepare"),
        ("training.run", "from voxmim import pretrain"),
        ("training.run", "import voxmim"),
        ("scans.volume", "from voxmim.store import read"),
        ("attic", "import os"),
    ],
)
def test_an_upward_import_is_seen(module: str, line: str) -> None:
    house = {"": "", "cli": "", "crops": "", "scans": "", "scans.prepare": "", "scans.volume": "", "training.run": ""}
    faults = upward_imports(house | {module: line})
    assert len(faults) == 1
    assert faults[0].startswith(module)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("store", "from voxmim.scans.volume import Volume"),
        ("scans.prepare", "from voxmim.store import write"),
        ("scans.prepare", "from . import volume\nfrom .volume import Volume"),
        ("cli", "import voxmim"),
        ("", "from .api import prepare"),
    ],
)
def test_a_downward_import_is_let_through(module: str, line: str) -> None:
    house = {"": "", "store": "", "scans": "", "scans.prepare": "", "scans.volume": "", "training.run": ""}
    assert upward_imports(house | {module: line}) == []


def test_a_foreign_import_in_the_method_is_seen() -> None:
    house = {
        "networks.vit": "from pathlib import Path\nimport torch",
        "networks.weights": "from pathlib import Path\nimport safetensors.torch\nimport lightning.pytorch as pl",
        "pretext.mae": "def f():\n    from rich.console import Console",
        "training.run": "import lightning",
    }
    assert outside_imports(house) == [
        "networks.vit imports pathlib.Path",
        "networks.weights imports lightning.pytorch",
        "pretext.mae imports rich.console.Console",
    ]


@pytest.mark.parametrize(
    "house",
    [
        {"a": "import voxmim.b", "b": "from voxmim.c import f", "c": "from voxmim import a"},
        {"a": "from .b import c", "b": "from ..a import f", "b.c": ""},
        {"scans": "from .prepare import f", "scans.prepare": "import voxmim.store",
         "scans.volume": "", "store": "from voxmim.scans.volume import g"},
    ],
)  # fmt: skip
def test_a_circle_is_seen(house: Sources) -> None:
    assert circle(house)
