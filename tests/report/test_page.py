from __future__ import annotations

import base64
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from voxmim.report.figures import label_colour, segmentation_picture
from voxmim.report.page import Page, Picture, Table, write_page
from voxmim.report.plots import Curve, Plot

VOID = {"meta", "img", "br"}
RESOURCES = {"src", "href", "data", "action", "poster", "srcset", "xlink:href"}


class Reader(HTMLParser):
    """Collects tags, texts and headings, and checks that tags are closed in the right order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)
            if self._open[-1] == "h2":
                self.headings.append(data)

    def with_name(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


PNG = segmentation_picture(np.zeros((4, 4, 4)), [("scan", None)], (1, 1, 1), (2, 2, 2))
HOSTILE = (
    """<script src="http://evil.example/x.js">alert('1')</script>"><img src=x onerror=alert(1)> {{ 7*7 }} & 'quoted'"""
)


def full(text: str = "plain") -> Page:
    """A page with every part and with `text` in every place for text."""
    band = ([0.1, 0.2], [0.3, 0.4])
    return Page(
        title=text,
        lead=[text, text],
        facts=[(text, text)],
        plots=[Plot(text, text, text, [Curve(text, [0, 10], [0.2, 0.3], band), Curve("b", [5], [0.1])], text)],
        pictures=[Picture(text, PNG, text, [(text, label_colour(1))])],
        tables=[Table(text, [text, text], [[text, text]], text)],
        settings=text,
        commands=[text, text],
    )


def written(folder: Path, page: Page) -> Reader:
    write_page(folder / "report.html", page)
    return Reader((folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ["plain", HOSTILE])
def test_the_page_is_self_contained(tmp_path: Path, text: str) -> None:
    reader = written(tmp_path, full(text))
    names = {name for name, _ in reader.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "video", "audio"}
    for name, attributes in reader.tags:
        assert not [key for key in attributes if key.startswith("on")]
        for key in RESOURCES & set(attributes):
            assert (attributes[key] or "").startswith(("data:image/png;base64,", "#")), (name, key)
        assert "url(" not in (attributes.get("style") or "")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    styles = re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL)
    assert len(styles) == 1
    assert not re.search(r"url\(|@import|//", styles[0])


def test_hostile_texts_are_escaped(tmp_path: Path) -> None:
    plain, hostile = written(tmp_path, full()), written(tmp_path, full(HOSTILE))
    assert [name for name, _ in hostile.tags] == [name for name, _ in plain.tags]
    shown, expected = ("".join(reader.texts) for reader in (hostile, plain))
    assert shown.count(HOSTILE) == expected.count("plain") > 15
    assert hostile.with_name("img")[0]["alt"] == HOSTILE


def test_a_hostile_colour_fetches_nothing(tmp_path: Path) -> None:
    reader = written(tmp_path, Page("t", pictures=[Picture("p", PNG, legend=[("l", "red;background:url(http://x)")])]))
    (policy,) = [
        meta["content"] for meta in reader.with_name("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {"default-src": "'none'", "img-src": "data:", "style-src": "'unsafe-inline'"}


def test_parts_without_content_are_left_out(tmp_path: Path) -> None:
    everything = written(tmp_path, full()).headings
    assert len(everything) == 6
    for part in ("facts", "plots", "pictures", "tables", "settings", "commands"):
        page = full()
        setattr(page, part, "" if part == "settings" else [])
        headings = written(tmp_path, page).headings
        assert len(headings) == 5
        assert set(headings) < set(everything)
    bare = written(tmp_path, Page("only a title"))
    assert bare.headings == []
    assert not {"section", "table", "svg", "img", "nav", "details"} & {name for name, _ in bare.tags}
    assert "only a title" in bare.texts


def test_the_table_of_contents_links_to_the_sections(tmp_path: Path) -> None:
    reader = written(tmp_path, full())
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert len(reader.with_name("a")) == 6
    assert {link["href"] for link in reader.with_name("a")} <= {f"#{name}" for name in ids}
    labelled = [attributes["aria-labelledby"] for _, attributes in reader.tags if "aria-labelledby" in attributes]
    assert set(labelled) <= set(ids)


def test_pictures_are_embedded_in_the_page(tmp_path: Path) -> None:
    (image,) = written(tmp_path, full()).with_name("img")
    assert base64.b64decode((image["src"] or "").split(",")[1]) == PNG
    assert (image["width"], image["height"]) == tuple(map(str, Picture("p", PNG).size))
    assert image["alt"] == "plain"


def test_columns_of_numbers_are_right_aligned() -> None:
    rows = [["prior", "0.71", "0.69 – 0.73", "—", "3 mm"], ["scratch", "−0.8", "—", "", "far"]]
    assert Table("t", list("abcde"), rows).numeric == [False, True, True, False, False]
    assert Table("t", ["step", "Dice"], [["60", "0.5"]]).numeric == [False, True]  # a row's name may be a number


def test_a_page_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "report.html"
    write_page(path, Page("first"))
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_page(path, Page("second"))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
