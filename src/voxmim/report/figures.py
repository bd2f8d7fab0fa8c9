"""Pictures of scans in radiological convention, as PNG bytes.

Volumes are (X, Y, Z), oriented RAS. Three rows show the axial, coronal and sagittal plane at the same scale: the
patient's right is on the left of the picture, anterior is up in the axial plane and on the left in the sagittal one,
superior is up. The background is black, which suits light and dark pages.
"""

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from scipy import ndimage

# The first seven are those of Okabe and Ito (2008); the others were chosen to be as different as possible in red-green
# colour blindness.
LABEL_COLOURS = [
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2",
    "#7dfa7d", "#6464fa", "#644b19", "#00fafa", "#1900fa", "#196464", "#e1fac8",
]  # fmt: skip
HIDDEN_COLOUR = "#465a7d"

PANEL, TALLEST = 300, 420  # the width of a column and the greatest height of a row, in pixels
MARGIN, HEADING, GAP = 34, 40, 8  # left of the first column, above the first row, between panels
_FINER = 2  # panels are drawn at this multiple of their size, to smooth outlines
_FILL = 0.35  # opacity of a label's colour within its outline
_PLANES = (("axial", 2, ("R", "L")), ("coronal", 1, ("R", "L")), ("sagittal", 0, ("A", "P")))
_TEXT = "#d5d9df"


def label_colour(index: int) -> str:
    """The CSS colour of label `index` (1 is the first label, 0 the background); colours repeat after the last."""
    return LABEL_COLOURS[(index - 1) % len(LABEL_COLOURS)]


def display_range(image: np.ndarray, limits: tuple[float, float] | None = None) -> np.ndarray:
    """Scale an image from its `limits` (by default `limits_of` it) to 0..1 float32 for display.

    Values outside are clipped; NaN and a constant image become 0.
    """
    start, stop = limits or limits_of(image)
    scaled = (np.nan_to_num(image, nan=start, posinf=stop, neginf=start) - start) / max(stop - start, 1e-12)
    return np.asarray(np.clip(scaled, 0, 1), dtype=np.float32)


def middle_of(labels: np.ndarray | None, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The voxel in which the three planes intersect.

    With labels (X, Y, Z) it is near their centre of mass, with equal weights of the labels, moved along each axis to
    the nearest slice with at least 80 % of the maximum labelled area. Otherwise it is the middle of `shape`.
    """
    if labels is None or not labels.any():
        return shape[0] // 2, shape[1] // 2, shape[2] // 2
    masks = (labels == index for index in np.unique(labels) if index != 0)
    counts = [[mask.sum(axis=others) for others in ((1, 2), (0, 2), (0, 1))] for mask in masks]
    profiles = (np.sum([count / count.max() for count in axis], axis=0) for axis in zip(*counts, strict=True))
    x, y, z = map(_full_slice, profiles)
    return x, y, z


def segmentation_picture(
    image: np.ndarray,
    columns: Sequence[tuple[str, np.ndarray | None]],
    spacing: Sequence[float] | np.ndarray,
    at: tuple[int, int, int],
) -> bytes:
    """Draw a column for each label map (X, Y, Z) over a scan of 0..1, or for the scan alone if None.

    The planes intersect in the voxel `at`, see `middle_of`.
    """
    sizes = _sizes(image.shape, spacing)
    return _grid([(heading, _column(image, labels, at, sizes)) for heading, labels in columns])


def reconstruction_picture(
    original: np.ndarray,
    hidden: np.ndarray,
    reconstructed: np.ndarray,
    spacing: Sequence[float] | np.ndarray,
    at: tuple[int, int, int] | None = None,
) -> bytes:
    """Draw a scan, the masked scan and its reconstruction, all (X, Y, Z) in one unit.

    `hidden` is the mask, drawn in `HIDDEN_COLOUR`; visible voxels of the reconstruction are those of `original`.
    """
    at = at or middle_of(None, original.shape)
    sizes, limits = _sizes(original.shape, spacing), limits_of(original)
    scan = display_range(original, limits)
    guess = np.where(hidden, display_range(reconstructed, limits), scan)

    def covered(plane: np.ndarray, cover: np.ndarray, size: tuple[int, int]) -> Image.Image:
        pixels = _grey(plane, size)
        pixels[_resized(cover, size, Image.Resampling.NEAREST) > 0.5] = ImageColor.getrgb(HIDDEN_COLOUR)
        return _shown(pixels, size)

    masked = [covered(*row) for row in zip(_planes(scan, at), _planes(hidden, at), sizes, strict=True)]
    seen, predicted = (_column(volume, None, at, sizes) for volume in (scan, guess))
    return _grid([("original", seen), ("masked", masked), ("reconstructed", predicted)])


def slice_panel(plane: np.ndarray, labels: np.ndarray | None, size: tuple[int, int]) -> Image.Image:
    """An axial slice (X, Y) of 0..1 with its labels, `size` (width, height) in pixels."""
    return _panel(_turned(plane), None if labels is None else _turned(labels), size)


def limits_of(image: np.ndarray) -> tuple[float, float]:
    """The 0.5 and 99.5 % percentiles of an image's finite values, which are shown as black and white."""
    finite = image[np.isfinite(image)]
    start, stop = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    return float(start), float(stop)


def _full_slice(profile: np.ndarray) -> int:
    positions = np.arange(len(profile))
    full = positions[profile >= 0.8 * profile.max()]
    centre = (profile @ positions) / profile.sum()
    return int(full[np.argmin(np.abs(full - centre))])


def _planes(volume: np.ndarray, at: tuple[int, int, int]) -> list[np.ndarray]:
    """The axial, coronal and sagittal slice."""
    return [_turned(np.take(volume, at[axis], axis=axis)) for _, axis, _ in _PLANES]


def _turned(plane: np.ndarray) -> np.ndarray:
    """A slice as (height, width), with both axes reversed: rows go down, and columns to the patient's left."""
    return plane[::-1, ::-1].T


def _sizes(shape: tuple[int, ...], spacing: Sequence[float] | np.ndarray) -> list[tuple[int, int]]:
    """Width and height in pixels of the three planes, at one scale for all."""
    x, y, z = np.asarray(shape) * np.abs(np.asarray(spacing, dtype=float))
    scale = min(PANEL / max(x, y), TALLEST / max(y, z))
    return [(max(1, round(w * scale)), max(1, round(h * scale))) for w, h in ((x, y), (x, z), (y, z))]


def _resized(plane: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    fine = (size[0] * _FINER, size[1] * _FINER)
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32)).resize(fine, how))


def _grey(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(height, width, 3) uint8 of a plane of 0..1, at `_FINER` times its size."""
    grey = np.clip(_resized(plane, size, Image.Resampling.BICUBIC), 0, 1) * 255
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


def _painted(pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Draw labels (rows, columns) on pixels (height, width, 3) as a translucent fill with an outline."""
    height, width = pixels.shape[:2]
    size = (width // _FINER, height // _FINER)
    present = np.unique(labels)
    largest, best = np.full((height, width), -1, np.float32), np.zeros((height, width), np.uint8)
    for rank, index in enumerate(present):
        fraction = _resized(labels == index, size, Image.Resampling.BILINEAR)
        best[fraction > largest] = rank
        largest = np.maximum(fraction, largest)
    edge = ndimage.maximum_filter(best, 5) != ndimage.minimum_filter(best, 5)
    colours = np.array([ImageColor.getrgb(label_colour(int(index))) for index in present], np.float32)
    inside = (present != 0)[best]
    weight = np.where(edge[inside], np.float32(1), np.float32(_FILL))[:, None]
    pixels[inside] = pixels[inside] * (1 - weight) + weight * colours[best[inside]]
    return pixels


def _column(
    image: np.ndarray, labels: np.ndarray | None, at: tuple[int, int, int], sizes: list[tuple[int, int]]
) -> list[Image.Image]:
    marked: Sequence[np.ndarray | None] = [None] * 3 if labels is None else _planes(labels, at)
    return [_panel(*row) for row in zip(_planes(image, at), marked, sizes, strict=True)]


def _panel(plane: np.ndarray, labels: np.ndarray | None, size: tuple[int, int]) -> Image.Image:
    """A plane (height, width) of 0..1 with its labels."""
    pixels = _grey(plane, size)
    return _shown(pixels if labels is None else _painted(pixels, labels), size)


def _shown(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(pixels).resize(size, Image.Resampling.BOX)


def _grid(columns: list[tuple[str, list[Image.Image]]]) -> bytes:
    """A PNG of columns of panels, with headings above and the names of the planes on the left."""
    heights = [max(panels[row].height for _, panels in columns) for row in range(3)]
    width = MARGIN + len(columns) * (PANEL + GAP)
    canvas = Image.new("RGB", (width, HEADING + sum(heights) + 3 * GAP), "black")
    draw = ImageDraw.Draw(canvas)
    for column, (heading, panels) in enumerate(columns):
        left, top = MARGIN + column * (PANEL + GAP), HEADING
        draw.text((left + PANEL // 2, HEADING // 2), fitted(heading, 19, PANEL), fill=_TEXT, font=font(19), anchor="mm")
        for row, (name, _, (start, stop)) in enumerate(_PLANES):
            edge = left + (PANEL - panels[row].width) // 2
            canvas.paste(panels[row], (edge, top))
            if column == 0:
                middle = top + heights[row] // 2
                _write_upwards(canvas, name, middle)
                for letter, x, anchor in ((start, edge + 4, "lm"), (stop, edge + panels[row].width - 4, "rm")):
                    draw.text((x, middle), letter, _TEXT, font(17), anchor, stroke_width=2, stroke_fill="black")
            top += heights[row] + GAP
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")  # optimize=True would take eight times as long, and save a twelfth
    return buffer.getvalue()


def _write_upwards(canvas: Image.Image, text: str, middle: int) -> None:
    """Write rotated text in the left margin, centred on the row `middle`."""
    strip = Image.new("RGB", (100, MARGIN - GAP), "black")
    ImageDraw.Draw(strip).text((50, strip.height // 2), text, fill=_TEXT, font=font(16), anchor="mm")
    canvas.paste(strip.rotate(90, expand=True), (GAP // 2, middle - 50))


def fitted(text: str, size: int, width: int, keep_end: bool = False) -> str:
    """The text, shortened at its end or its beginning to a width in pixels at a font size."""
    shown, kept = text, text
    while kept and font(size).getlength(shown) > width:
        kept = kept[1:] if keep_end else kept[:-1]
        shown = f"…{kept}" if keep_end else f"{kept}…"
    return shown


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all pictures."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)
