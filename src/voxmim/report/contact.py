"""Contact sheets: the middle slices of many scans with the outlines of their labels."""

import io
from collections.abc import Collection, Mapping

from PIL import Image, ImageDraw

from voxmim.doctor.inspect import Slice
from voxmim.report.figures import display_range, fitted, font, slice_panel

CELL, NAME, GAP, COLUMNS = 150, 20, 8, 8  # pixels, and cells in a row
MARK = "#e69f00"
_CT_WINDOW = (-160.0, 240.0)  # HU: soft tissue


def contact_sheet(slices: Mapping[str, Slice], intensity: str, marked: Collection[str] = ()) -> bytes:
    """A PNG of slices in the order of their names; the marked ones have a frame."""
    rows = -(-len(slices) // COLUMNS)
    columns = min(COLUMNS, len(slices))
    canvas = Image.new("RGB", (columns * (CELL + GAP) + GAP, rows * (CELL + NAME + GAP) + GAP), "black")
    draw = ImageDraw.Draw(canvas)
    for index, name in enumerate(sorted(slices)):
        left, top = GAP + index % COLUMNS * (CELL + GAP), GAP + index // COLUMNS * (CELL + NAME + GAP)
        panel = _panel(slices[name], intensity)
        canvas.paste(panel, (left + (CELL - panel.width) // 2, top + (CELL - panel.height) // 2))
        short = fitted(name, 12, CELL, keep_end=True)  # where names differ
        draw.text((left + CELL // 2, top + CELL + NAME // 2), short, fill="#d5d9df", font=font(12), anchor="mm")
        if name in marked:
            draw.rectangle((left - 3, top - 3, left + CELL + 2, top + CELL + NAME + 2), outline=MARK, width=2)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _panel(plane: Slice, intensity: str) -> Image.Image:
    width, height = (n * size for n, size in zip(plane.image.shape, plane.spacing, strict=True))
    scale = CELL / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return slice_panel(display_range(plane.image, _CT_WINDOW if intensity == "ct" else None), plane.label, size)
