"""Scans, folders of scans and stores as collections."""

import threading
from functools import partial
from pathlib import Path

import nibabel
import numpy as np

from voxmim.doctor.inspect import inspect_source
from voxmim.errors import VoxmimError
from voxmim.images.grid import Volume
from voxmim.images.volume import case_name, open_image
from voxmim.sources import Source, SourceCase, open_source
from voxmim.store.format import Case, Store
from voxmim.viewer.collection import Collection, Item, Layer, Panel


def scan_collection(path: Path) -> Collection:
    """One scan of any format; raises ScanError if it cannot be read."""
    count = len(_read(path).array)
    names = [f"channel {channel + 1}" for channel in range(count)] if count > 1 else ["scan"]
    layers = tuple(Layer(name, "image", partial(_channel, path, i), shown=i == 0) for i, name in enumerate(names))
    return Collection("scan", path.name, [Item(case_name(path), (Panel("", layers),), files=(str(path),))])


def folder_collection(path: Path) -> Collection:
    """A folder or list of scans, whose files are checked in the background."""
    source = open_source(path)
    collection = Collection("folder", source.name or path.name, [_of_source(source, case) for case in source.cases])
    collection.findings, collection.checking = list(source.findings), "starting"

    def on_case(done: int, count: int) -> None:
        collection.checking = f"{done} of {count}"

    def check() -> None:
        try:
            collection.findings = inspect_source(path, workers=1, on_case=on_case).findings
        except VoxmimError as error:
            collection.title += f" ({error})"
        collection.checking = ""

    threading.Thread(target=check, daemon=True).start()
    return collection


def store_collection(path: Path) -> Collection:
    """A store: its prepared cases, with the findings on their source files."""
    store = Store(path)
    items = []
    for case in store.cases.values():
        files = (*case.image, *((case.label,) if case.label else ()))
        items.append(Item(case.name, (Panel("", store_layers(store, case)),), case.split, files))
    return Collection("store", store.name, items, findings=list(store.findings))


def store_layers(store: Store, case: Case) -> tuple[Layer, ...]:
    """The channels and the label map of a prepared case, on the store's grid (RAS+, origin at the first voxel)."""

    def channel(index: int) -> Volume:
        return on_store_grid(store.image(case.name)[index].astype(np.float32), store)

    def labels() -> Volume:
        return on_store_grid(store.label_map(case.name), store)

    channels = tuple(
        Layer(name, "image", partial(channel, index), shown=index == 0)
        for index, name in enumerate(store.preparation.channels)
        if index not in case.missing
    )
    reference = Layer("reference", "labels", labels, store.labels, shown=True)
    return (*channels, reference) if case.label else channels


def on_store_grid(array: np.ndarray, store: Store) -> Volume:
    """A volume of voxels (X, Y, Z) with the store's spacing."""
    return Volume(array[None], np.diag([*store.preparation.spacing, 1.0]))


def as_nifti(volume: Volume) -> bytes:
    """The first channel as NIfTI-1, in a voxel type that the page supports."""
    array = volume.array[0]
    if array.dtype not in (np.uint8, np.int16, np.float32):
        small = np.issubdtype(array.dtype, np.integer) and array.min() >= -(2**15) and array.max() < 2**15
        array = array.astype(np.int16 if small or array.dtype == bool else np.float32)
    return bytes(nibabel.Nifti1Image(array, volume.affine).to_bytes())


def _of_source(source: Source, case: SourceCase) -> Item:
    present = [name for index, name in enumerate(source.channels) if index not in case.missing]
    one_file = len(case.images) == 1
    layers = []
    for index, name in enumerate(present):
        place = (case.images[0], index) if one_file else (case.images[index], 0)
        layers.append(Layer(name, "image", partial(_channel, *place), shown=index == 0))
    if case.label is not None:
        label = partial(_label, case.label, case.images[0])
        layers.append(Layer("reference", "labels", label, source.labels, shown=True))
    return Item(case.name, (Panel("", tuple(layers)),), case.split, tuple(map(str, case.files)))


def _read(path: Path) -> Volume:
    """All channels of a file."""
    image = open_image(path)
    return image.read(next((size for size in image.sizes[3:] if size > 1), 1))


def _channel(path: Path, index: int) -> Volume:
    volume = _read(path)
    return Volume(volume.array[index : index + 1], volume.affine)


def _label(path: Path, image: Path) -> Volume:
    return open_image(path).read_label(open_image(image).grid)
