"""A run in a notebook: its metrics, pictures and cases."""

import io
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import ImageColor

from voxmim.errors import RunError, nearest
from voxmim.images.grid import Volume
from voxmim.report.figures import label_colour, middle_of
from voxmim.training.run import Run
from voxmim.viewer.collection import Item, Layer
from voxmim.viewer.runs import run_collection
from voxmim.viewer.scans import as_nifti
from voxmim.viewer.slices import COVER, PLANES, draw_plane


@dataclass(frozen=True)
class Png:
    """A picture that a notebook shows; ``png`` has its bytes."""

    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png


class OpenRun:
    """A run folder, finished or not."""

    def __init__(self, path: Path | str) -> None:
        self._run = Run.open(path)
        self.path = self._run.path

    def __repr__(self) -> str:
        return f"voxmim.open_run({str(self.path)!r})"

    @property
    def metrics(self) -> Any:
        """The rows of metrics.csv so far: a DataFrame if pandas is installed, else a list of dicts."""
        rows = self._run.metrics()
        if find_spec("pandas") is None:
            return rows
        import pandas

        return pandas.DataFrame(rows)

    @property
    def figures(self) -> dict[str, Png]:
        """The pictures of the run's report by their names."""
        return {file.stem: Png(file.read_bytes()) for file in sorted((self.path / "figures").glob("*.png"))}

    @property
    def cases(self) -> list[str]:
        """The validation cases, which can be shown; raises StoreError if the run's store is missing."""
        return list(self._items)

    def show(self, case: str | None = None) -> Any:
        """One of `cases` with the network's output: a NiiVue widget, or a PNG without ipyniivue.

        Raises:
            RunError: there is no such case.
            StoreError: the run's store is missing.
        """
        case = case or self.cases[0]
        if case not in self._items:
            raise RunError(f"{self.path}: it has no case '{case}'{nearest(case, self.cases) or '; see run.cases.'}")
        layers = [(layer, layer.read()) for layer in self._items[case].panels[0].layers]
        return _widget(layers) if find_spec("ipyniivue") else _png(layers)

    @cached_property
    def _items(self) -> dict[str, Item]:
        return {item.name: item for item in run_collection(self.path).items}


def _widget(layers: list[tuple[Layer, Volume]]) -> Any:
    """A widget of layers, of which those that are not shown at first are transparent."""
    import ipyniivue

    volumes = []
    for layer, volume in layers:
        opacity = float(layer.shown) * (1 if layer.kind == "image" else COVER)
        colours = "inferno" if layer.kind == "error" else "gray"
        shown = ipyniivue.Volume(data=as_nifti(volume), name=f"{layer.name}.nii", opacity=opacity, colormap=colours)
        if layer.kind == "labels":
            shown.set_colormap_label(_colour_table(layer))
        volumes.append(shown)
    widget = ipyniivue.NiiVue()
    widget.load_volumes(volumes)
    return widget


def _colour_table(layer: Layer) -> dict[str, list[Any]]:
    """The colours of a label map in NiiVue's format, background first and transparent."""
    colours = [(0, 0, 0, 0), *(ImageColor.getcolor(label_colour(value), "RGBA") for value in layer.legend)]
    channels = {key: list(values) for key, values in zip("RGBA", zip(*colours, strict=True), strict=True)}
    return {**channels, "I": [0, *layer.legend], "labels": ["background", *layer.legend.values()]}


def _png(layers: list[tuple[Layer, Volume]]) -> Png:
    """A row per layer, labels and errors over the scan, and a column per plane through the middle of the labels."""
    base = layers[0]
    labels = next((volume.array[0] for layer, volume in layers if layer.kind == "labels"), None)
    shape = base[1].shape
    at = [index / max(1, size - 1) for index, size in zip(middle_of(labels, shape), shape, strict=True)]
    figure = Figure(figsize=(3 * len(PLANES), 3 * len(layers)), layout="compressed")
    panels = figure.subplots(len(layers), len(PLANES), squeeze=False)
    for row, (layer, volume) in zip(panels, layers, strict=True):
        seen = [(layer, volume)] if layer.kind == "image" else [base, (layer, volume)]
        for axes, plane, position in zip(row, PLANES, at, strict=True):
            axes.imshow(plt.imread(io.BytesIO(draw_plane(seen, plane, position))))
            axes.set_axis_off()
        row[1].set_title(layer.name)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=80)
    return Png(stream.getvalue())
