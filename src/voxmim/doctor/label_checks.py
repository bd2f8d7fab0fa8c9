"""Is what is taken for a scan a label map? Folders often hold both, and a training would take the one for the other."""

from __future__ import annotations

import numpy as np

_ENOUGH = 1 << 21  # voxels that are looked at
_EVEN = 0.8  # of neighbours that have the same value; in a scan noise leaves a few
_WHOLE = 1e-3  # how far from a whole number, since a mask may have lost some digits on its way through a scaled file


def looks_like_labels(channel: np.ndarray) -> bool:
    """Tell whether (X, Y, Z) voxels are whole numbers from 0 to 255 that neighbours share wherever they aren't 0."""
    planes = channel[..., :: max(1, -(-channel.size // _ENOUGH))]
    if planes.min() < -_WHOLE or planes.max() > 255 + _WHOLE:
        return False
    values = np.rint(planes)
    if np.abs(planes - values).max() > _WHOLE:
        return False
    inside = (values[1:] > 0) & (values[:-1] > 0)
    return bool(inside.any() and np.mean((values[1:] == values[:-1])[inside]) > _EVEN)
