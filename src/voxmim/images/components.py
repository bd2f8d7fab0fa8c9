"""Connected components of label maps; voxels that share a face, an edge or a corner are connected."""

from collections.abc import Iterable

import numpy as np
import scipy

SMALL = 0.3  # of the voxels of a label's largest component; docs/methods.md has the figures


def remove_small_components(label_map: np.ndarray, values: Iterable[int], small: float = SMALL) -> np.ndarray:
    """Set the small components of labels to background.

    nnU-Net (Isensee et al., Nature Methods 18, 2021) keeps the largest component alone. Keeping all large ones does
    less harm where the prediction of an organ is broken into two.

    Args:
        label_map: (X, Y, Z) uint8.
        values: the labels to clean.
        small: a component with less than this fraction of the voxels of its label's largest one is removed.

    Returns:
        a new label map.
    """
    result = label_map.copy()
    boxes = dict(enumerate(scipy.ndimage.find_objects(label_map), start=1))
    for value in values:
        if (box := boxes.get(value)) is None:
            continue
        inside = label_map[box] == value
        components, count = scipy.ndimage.label(inside, np.ones((3, 3, 3)))
        if count > 1:
            sizes = np.bincount(components[inside])
            removed = sizes < small * sizes.max()
            removed[0] = False  # other labels
            result[box][removed[components]] = 0
    return result
