"""Reports as single HTML files without scripts and external content."""

import base64
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from voxmim.files import write_text
from voxmim.report.plots import Chart, svg

_NUMBER = re.compile(r"[-+−±]?[\d.]")
_NOTHING = ("", "-", "–", "—")
_HEADINGS = {
    "results": "Results",
    "plots": "Plots",
    "pictures": "Pictures",
    "facts": "Setup",
    "settings": "Settings",
    "repeat": "Reproduce",
}


@dataclass
class Picture:
    """A PNG with a title (also its alternative text) and a legend of (label, CSS colour)."""

    title: str
    png: bytes
    caption: str = ""
    legend: list[tuple[str, str]] = field(default_factory=list)

    @property
    def source(self) -> str:
        """The PNG as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the PNG's header."""
        width, height = struct.unpack(">II", self.png[16:24])
        return width, height


@dataclass
class Table:
    """Rows of texts under a header; the first cell of a row names it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""

    @property
    def numeric(self) -> list[bool]:
        """For each column, whether its cells are numbers, which are right-aligned; the first column never is."""
        columns = [[row[i] for row in self.rows if i < len(row)] for i in range(1, len(self.header))]
        return [False] + [
            any(cell not in _NOTHING for cell in column)
            and all(cell in _NOTHING or _NUMBER.match(cell) is not None for cell in column)
            for column in columns
        ]


@dataclass
class Page:
    """The content of a report in the order of the page; empty parts are left out."""

    title: str
    lead: list[str] = field(default_factory=list)  # the results in words, a paragraph each
    tables: list[Table] = field(default_factory=list)
    plots: Sequence[Chart] = ()
    pictures: list[Picture] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)  # data, settings and machine, as (name, value)
    settings: str = ""  # YAML text, collapsed
    commands: list[str] = field(default_factory=list)  # that repeat it
    headings: dict[str, str] = field(default_factory=dict)  # of parts, if they differ from `_HEADINGS`
    refresh: int = 0  # seconds after which a browser reloads the page; 0 is never


def write_page(path: Path, page: Page) -> None:
    """Write the report atomically."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("voxmim.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    html = template.render(
        page=page,
        paragraphs=[paragraph for paragraph in page.lead if paragraph.strip()],
        plots=[(plot, Markup(svg(plot, f"plot-{i}"))) for i, plot in enumerate(page.plots)],
        headings=_HEADINGS | page.headings,
    )
    write_text(path, html)
