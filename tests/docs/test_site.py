"""The documentation site: strict build, search, completeness, and no requests to other hosts."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import voxmim
from voxmim.cli import COMMANDS

pytest.importorskip("mkdocs", reason="the documentation tools are not installed")
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; broken links, pages missing from the menu and missing docstrings would fail the build."""
    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


class Fetched(HTMLParser):
    """The URLs that a browser fetches to show a page, without the links on it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        if tag in ("script", "img", "iframe", "source"):
            self.urls.append(values.get("src") or "")
        elif tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.urls.append(values.get("href") or "")


def test_no_page_fetches_anything_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    outside = {(page.name, url) for page in pages for url in Fetched(page).urls if re.match(r"(\w+:)?//", url)}
    assert outside == set()
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?https?:[^)]*", styles) == []


def test_the_reference_lists_every_command_and_every_public_function(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text()
    assert [name for name in COMMANDS if f"voxmim {name}" not in commands] == []
    functions = (site / "reference" / "python.html").read_text()
    assert [name for name in voxmim.__all__ if not re.search(rf'id="voxmim\.api\.\w+\.{name}"', functions)] == []


def test_the_search_finds_a_setting_and_a_command(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    for word, page in (("mask.ratio", "methods.html"), ("--plan-only", "reference/commands.html")):
        assert any(word in entry["text"] and entry["location"].startswith(page) for entry in index), word


def test_every_picture_of_the_gallery_is_part_of_the_site(site: Path) -> None:
    pictures = [src for src in Fetched(site / "gallery.html").urls if src.endswith(".png")]
    assert len(pictures) >= 8
    assert [src for src in pictures if not (site / src).is_file()] == []
