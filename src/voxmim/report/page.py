"""The report: one HTML file that stands alone, without scripts and without anything fetched from elsewhere."""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from voxmim.files import write_text
from voxmim.report.chart import Curve, Plot, draw
from voxmim.report.histogram import Histogram, lay_out

__all__ = ["Curve", "Histogram", "Page", "Picture", "Plot", "Table", "write_page"]

_NUMBER = re.compile(r"[-+−±]?[\d.]")
_NOTHING = ("", "-", "–", "—")
_HEADINGS = {
    "facts": "What was run on what",
    "results": "Results",
    "curves": "Learning curves",
    "histograms": "How the scans spread",
    "pictures": "Pictures",
    "settings": "Settings",
    "repeat": "How to repeat it",
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
    """What a report says. An empty part is left out of the page.

    Attributes:
        title: the heading.
        lead: what was seen, in plain words; a paragraph, or several.
        facts: what was run on what, as (name, value).
        tables, plots, histograms, pictures: results, learning curves, how values spread, and images.
        settings: YAML text, folded away.
        commands: how to repeat the run, one line each.
        headings: other headings of parts than those of a run's report.
    """

    title: str
    lead: str | list[str] = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    histograms: list[Histogram] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    settings: str = ""
    commands: list[str] = field(default_factory=list)
    headings: dict[str, str] = field(default_factory=dict)


def write_page(path: Path, page: Page) -> None:
    """Write the report; the file appears whole or not at all."""
    lead = [page.lead] if isinstance(page.lead, str) else page.lead
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("voxmim.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    html = template.render(
        page=page,
        paragraphs=[paragraph for paragraph in lead if paragraph.strip()],
        plots=[(plot, draw(plot)) for plot in page.plots],
        histograms=[(histogram, lay_out(histogram)) for histogram in page.histograms],
        headings=_HEADINGS | page.headings,
    )
    write_text(path, html)
