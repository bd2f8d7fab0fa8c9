"""The report: one HTML file that needs no other file, runs no script and fetches nothing."""

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
    """A PNG with its title (which also is read out in its place) and a legend of (label, CSS colour)."""

    title: str
    png: bytes
    caption: str = ""
    legend: list[tuple[str, str]] = field(default_factory=list)

    @property
    def source(self) -> str:
        """The PNG as a data address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, as the PNG's header has them."""
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
        """Per column: whether its cells are numbers, to be set flush right; the first column names the rows."""
        columns = [[row[i] for row in self.rows if i < len(row)] for i in range(1, len(self.header))]
        return [False] + [
            any(cell not in _NOTHING for cell in column)
            and all(cell in _NOTHING or _NUMBER.match(cell) is not None for cell in column)
            for column in columns
        ]


@dataclass
class Page:
    """What a report says, in the order of the page. An empty part is left out."""

    title: str  # the heading
    lead: list[str] = field(default_factory=list)  # the findings in plain words, a paragraph each
    tables: list[Table] = field(default_factory=list)  # tables, plots, pictures: the results
    plots: Sequence[Chart] = ()
    pictures: list[Picture] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)  # data, settings and machine, as (name, value)
    settings: str = ""  # YAML text, folded away
    commands: list[str] = field(default_factory=list)  # how to repeat it, one line each
    headings: dict[str, str] = field(default_factory=dict)  # other headings of the parts than the default ones
    refresh: int = 0  # seconds after which a browser loads the page again; 0 is never


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
