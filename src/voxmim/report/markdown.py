"""A page as Markdown, with its pictures in files."""

from collections.abc import Sequence
from pathlib import Path

from voxmim.files import atomic_write, write_text
from voxmim.report.page import Page, Table
from voxmim.report.plots import png

PICTURES = "pictures"


def write_markdown(file: Path, page: Page, links: Sequence[tuple[str, str]] = ()) -> None:
    """Write the page, and its plots and pictures as PNG into ``pictures/``; `links` are (file, description)."""
    parts = [f"# {_plain(page.title)}", *(_plain(paragraph) for paragraph in page.lead if paragraph.strip())]
    if links:
        parts.append("\n".join(f"- [{name}]({name}): {what}" for name, what in links))
    if page.tables:
        parts.append("## Results")
    for table in page.tables:
        parts += [f"### {_plain(table.title)}", _table(table), *([_plain(table.note)] if table.note else [])]
    shown = [(plot.title, png(plot), plot.caption) for plot in page.plots]
    shown += [(picture.title, picture.png, picture.caption) for picture in page.pictures]
    if shown:
        parts.append("## Plots and pictures")
    for number, (title, image, caption) in enumerate(shown, start=1):
        name = f"{PICTURES}/{number:02d}.png"
        with atomic_write(file.parent / name) as temporary:
            temporary.write_bytes(image)
        parts += [f"![{_plain(title)}]({name})", f"*{_plain(title)}.{' ' + _plain(caption) if caption else ''}*"]
    if page.facts:
        facts = Table("Setup", ["", ""], [[name, value] for name, value in page.facts])
        parts += ["## Setup", _table(facts)]
    if page.commands:
        parts += ["## Reproduce", _code(page.commands[:1])]
    if page.commands[1:]:
        parts += _folded("The command of each step", _code(page.commands[1:]))
    if page.settings:
        parts += _folded("All settings, as YAML", _code(page.settings.splitlines()))
    write_text(file, "\n\n".join(parts) + "\n")


def _table(table: Table) -> str:
    align = ["--:" if numeric else "---" for numeric in table.numeric]
    lines = [table.header, align, *table.rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _code(lines: Sequence[str]) -> str:
    return "\n".join(["```", *lines, "```"])


def _folded(title: str, content: str) -> list[str]:
    return [f"<details><summary>{title}</summary>", content, "</details>"]


def _plain(text: str) -> str:
    """The text with Markdown's special characters escaped."""
    return "".join(f"\\{sign}" if sign in "|*<`" else sign for sign in text)
