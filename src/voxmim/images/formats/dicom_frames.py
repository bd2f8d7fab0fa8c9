"""Enhanced DICOM: one file of many frames, each with a place and a rescaling of its own.

ITK gives such frames one spacing and one rescaling whatever the file says, so pydicom reads them.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from voxmim.errors import ScanError
from voxmim.images.formats.dicom_stack import stack


@dataclass(frozen=True, eq=False)
class Frames:
    """How the frames of a file make a volume.

    Attributes:
        order: of the frames, along their normal.
        shape: voxels along X, Y, Z.
        affine: (4, 4) voxel index to LPS world mm.
        rescale: (Z, 2) slope and intercept of each frame, in that order.
        fault: why they make none, or None.
    """

    order: tuple[int, ...] = ()
    shape: tuple[int, int, int] = (0, 0, 0)
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    rescale: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    fault: str | None = None


@contextmanager
def foreign_reader(path: Path, what: str) -> Iterator[None]:
    """Run pydicom or highdicom: their messages, which may quote tags, are kept silent, their errors made ours.

    Raises:
        ScanError: the packages are not installed, or they fail.
    """
    disabled = logging.root.manager.disable
    try:
        logging.disable()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ScanError:
        raise
    except ImportError:
        raise ScanError(f"{path}: {what} needs further packages; run pip install 'voxmim[dicom]'.") from None
    except Exception:  # on damaged bytes a parser may fail in any way, and what it says may quote them
        text = f"{path}: {what} cannot be read; the file is cut off or damaged, copy it again."
        raise ScanError(text, "cut off") from None
    finally:
        logging.disable(disabled)


def stack_frames(path: Path) -> Frames:
    """Judge the frames of an enhanced file; voxels are not read."""
    try:
        with foreign_reader(path, "an enhanced DICOM file"):
            import pydicom

            return _stacked(pydicom.dcmread(path, stop_before_pixels=True))
    except ScanError as error:
        return Frames(fault=str(error).removeprefix(f"{path}: ").removesuffix("."))


def read_frames(path: Path) -> np.ndarray:
    """(X, Y, Z) rescaled values of an enhanced file.

    Raises:
        ScanError: its frames make no volume, or cannot be read.
    """
    with foreign_reader(path, "an enhanced DICOM file"):
        import pydicom

        dataset = pydicom.dcmread(path)
        frames = _stacked(dataset)
        if frames.fault is not None:
            raise ScanError(f"{path}: {frames.fault}; export it anew or leave it out.")
        stored = dataset.pixel_array[list(frames.order)]
    slope, intercept = (column[:, None, None] for column in frames.rescale.T)
    whole = bool(np.all(frames.rescale == np.rint(frames.rescale)))
    return (stored * slope + intercept).astype(np.int32 if whole else np.float32).transpose(2, 1, 0)


def _stacked(dataset: Any) -> Frames:
    """The frames of a pydicom data set, in order."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames = list(dataset.PerFrameFunctionalGroupsSequence)

    def groups(name: str) -> list[Any]:
        found = [getattr(frame, name, None) or getattr(shared, name, None) for frame in frames]
        return [sequence[0] if sequence else None for sequence in found]

    places, turns = groups("PlanePositionSequence"), groups("PlaneOrientationSequence")
    sizes = groups("PixelMeasuresSequence")
    if len(frames) < 2 or any(each is None for each in (*places, *turns, *sizes)):
        return Frames(fault="its frames do not say where they lie in space")
    positions = np.array([place.ImagePositionPatient for place in places], dtype=float)
    orientations = np.array([turn.ImageOrientationPatient for turn in turns], dtype=float)
    spacings = np.array([size.PixelSpacing for size in sizes], dtype=float)
    for values, what in ((orientations, "orientations"), (spacings, "voxel sizes")):
        if not np.allclose(values, values[0], atol=1e-3):
            return Frames(fault=f"its frames are of several {what}; separate them where the file is from")
    across, down = orientations[0].reshape(2, 3)
    normal = np.cross(across, down)
    stacked = stack(positions, normal, float(spacings[0].min()))
    if stacked.doubles:
        return Frames(fault="several of its frames lie at the same place (several times or echoes in one file)")
    if stacked.fault is not None:
        return Frames(fault=stacked.fault.format(*(f"frame {index + 1}" for index in stacked.where)))
    affine = np.eye(4)
    affine[:3, :3] = np.stack([across * spacings[0, 1], down * spacings[0, 0], normal * stacked.spacing], axis=1)
    affine[:3, 3] = positions[stacked.order[0]]
    own = groups("PixelValueTransformationSequence")
    rescale = [(1, 0) if each is None else (each.RescaleSlope, each.RescaleIntercept) for each in own]
    shape = (int(dataset.Columns), int(dataset.Rows), len(stacked.order))
    return Frames(stacked.order, shape, affine, np.array(rescale, dtype=float)[list(stacked.order)])
