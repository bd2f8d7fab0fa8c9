from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from voxmim.store.crops import CropPlan, middle_start, read_crop
from voxmim.store.format import Case, Index, Preparation, Store
from voxmim.store.writing import write_case
from voxmim.tasks.classification.inference import class_probabilities, windows

SIDES = st.integers(1, 40)


class RecordWindows(nn.Module):
    """Records its input windows; the logits are the value of the first voxel and zero."""

    def __init__(self) -> None:
        super().__init__()
        self.device = nn.Parameter(torch.zeros(1))
        self.windows: list[Tensor] = []

    def forward(self, volume: Tensor) -> Tensor:
        self.windows.append(volume[0])
        return torch.stack([volume[0, 0, 0, 0, 0], torch.zeros(())])[None]


@given(st.tuples(SIDES, SIDES, SIDES), st.tuples(*[st.integers(4, 12)] * 3))
def test_the_smallest_number_of_windows_covers_the_scan(
    shape: tuple[int, int, int], crop: tuple[int, int, int]
) -> None:
    starts = windows(shape, crop)
    assert len(set(starts)) == len(starts) == np.prod([-(-n // c) for n, c in zip(shape, crop, strict=True)])
    covered = np.zeros(shape, dtype=bool)
    for start in starts:
        covered[tuple(slice(max(0, s), s + c) for s, c in zip(start, crop, strict=True))] = True
    assert covered.all()
    for axis, (n, c) in enumerate(zip(shape, crop, strict=True)):
        places = sorted({start[axis] for start in starts})
        assert places == [middle_start(shape, crop)[axis]] if n <= c else (places[0], places[-1]) == (0, n - c)
        gaps = np.diff(places)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1  # evenly spaced


def test_probabilities_and_not_logits_are_averaged() -> None:
    image = torch.zeros(1, 4, 4, 8)
    image[0, 0, 0, 0], image[0, 0, 0, 4] = 4.0, -1.0
    network = RecordWindows()
    probabilities = class_probabilities(network, image, (4, 4, 4), "32")
    per_window = torch.sigmoid(torch.tensor([4.0, -1.0]))
    torch.testing.assert_close(probabilities, torch.stack([per_window.mean(), 1 - per_window.mean()]))
    assert len(network.windows) == 2
    torch.testing.assert_close(torch.cat(network.windows, dim=3), image)


@pytest.mark.parametrize("intensity", ["ct", "mr"])
def test_a_scan_smaller_than_the_crop_is_padded_as_in_training(tmp_path: Path, intensity: str) -> None:
    rng = np.random.default_rng(0)
    kind = np.int16 if intensity == "ct" else np.float16
    voxels = rng.integers(-200, 300, (1, 3, 9, 5)).astype(kind)
    case = write_case(tmp_path, Case("a", "train", (3, 9, 5), ("a.nii",)), voxels, None)
    Index("x", Preparation((1, 1, 1), intensity, ("c",)), {}, [case]).write(tmp_path)
    store, plan = Store(tmp_path), CropPlan((4, 4, 6), (-100.0, 200.0), seed=0)
    whole, _ = read_crop(store, case, (0, 0, 0), CropPlan((3, 9, 5), plan.window, seed=0))
    network = RecordWindows()
    class_probabilities(network, whole, plan.size, "32")
    assert len(network.windows) == 3
    for window, start in zip(network.windows, windows(case.shape, plan.size), strict=True):
        torch.testing.assert_close(window, read_crop(store, case, start, plan)[0], rtol=0, atol=0)
