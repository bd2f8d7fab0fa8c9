from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from conftest import TinyRuns
from stand_ins import TINY_BANDS, ByIntensity
from voxmim.images.geometry import Grid, resample_probabilities, resample_to_label_map
from voxmim.settings import Triple
from voxmim.tasks.segmentation import inference
from voxmim.tasks.segmentation.inference import average_slabs, joined, original_label_map, predict_slabs
from voxmim.tasks.segmentation.structures import Structures
from voxmim.weights.load import load_segmentor

sizes = st.integers(3, 20)


def predict_probabilities(network: nn.Module, image: Tensor, crop: Triple, overlap: float, precision: str) -> Tensor:
    x, y, z = image.shape[1:]
    return joined(predict_slabs(network, image, crop, overlap, precision), (x, y, z))


class Brightness(nn.Module):
    """Logits that depend only on the intensity of each voxel, so that all windows agree."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.0, 2.0, -3.0]))

    def forward(self, volume: Tensor) -> Tensor:
        return volume[:, :1] * self.slope.reshape(1, 3, 1, 1, 1)


class Middle(nn.Module):
    """Predicts label 1 in the middle of its window and background near its faces."""

    def __init__(self, margin: int) -> None:
        super().__init__()
        self.margin = nn.Parameter(torch.tensor(float(margin)))

    def forward(self, volume: Tensor) -> Tensor:
        m = int(self.margin)
        inside = torch.zeros_like(volume)
        inside[..., m:-m, m:-m, m:-m] = 1.0
        return torch.cat([10 - 20 * inside, 20 * inside - 10], dim=1)


@given(shape=st.tuples(sizes, sizes, sizes), overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
@settings(deadline=None, max_examples=20)
def test_windows_give_the_same_result_as_the_whole_volume(shape: tuple[int, int, int], overlap: float) -> None:
    """Scans larger than the window, smaller, and larger along some axes only."""
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(sum(shape)))
    network = Brightness()
    with torch.no_grad():
        direct = network(image[None])[0].softmax(0)
    probabilities = predict_probabilities(network, image, (8, 12, 10), overlap, "32")
    torch.testing.assert_close(probabilities, direct)


@given(shape=st.tuples(sizes, sizes, sizes), overlap=st.sampled_from([0.0, 0.25, 0.5]), seed=st.integers(0, 9))
@settings(deadline=None, max_examples=20)
def test_windows_and_weights_agree_with_monai(shape: tuple[int, int, int], overlap: float, seed: int) -> None:
    """With a network whose output depends on the position in its window."""
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    place = torch.linspace(0, 1, 8 * 6 * 7).reshape(1, 1, 8, 6, 7)

    class Placed(Brightness):
        def forward(self, volume: Tensor) -> Tensor:
            return super().forward(volume * place)

    network = Placed()
    with torch.no_grad():
        expected = sliding_window_inference(
            image[None], (8, 6, 7), 1, lambda crops: network(crops).softmax(1), overlap, "gaussian"
        )[0]
    probabilities = predict_probabilities(network, image, (8, 6, 7), overlap, "32")
    torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 2.0, 1.3), (3.1, 0.6, 2.2)])
@pytest.mark.parametrize("regions", [{}, {"both": (1, 2), "second": (2,)}])
def test_a_label_map_from_slabs_equals_that_of_the_complete_volume(
    spacing: tuple[float, float, float], regions: dict[str, tuple[int, ...]]
) -> None:
    """On a grid with other voxel sizes and axes."""
    structures = Structures({1: "a", 2: "b"}, regions, (0, 1, 2))
    generator = torch.Generator().manual_seed(1)
    full = torch.rand(len(regions) or 3, 12, 30, 9, generator=generator)
    slabs = [(0, full[:, :, :11]), (11, full[:, :, 11:13]), (13, full[:, :, 13:])]
    grid = Grid((12, 30, 9), np.diag([1.5, 1.0, 2.0, 1.0]))
    affine = np.array([[0, 0, -spacing[2], 17.0], [spacing[0], 0, 0, -2.0], [0, spacing[1], 0, 1.0], [0, 0, 0, 1]])
    original = Grid((round(33 / spacing[0]), round(17 / spacing[1]), round(20 / spacing[2])), affine)
    label_map = original_label_map(iter(slabs), grid, original, structures)
    if regions:
        expected = structures.decide(resample_probabilities(full.numpy(), grid, original, None))
    else:
        expected = resample_to_label_map(full.numpy(), grid, original)
    np.testing.assert_array_equal(label_map, expected)


@given(
    cuts=st.lists(st.sets(st.integers(1, 8)), min_size=1, max_size=3),
    axis=st.integers(0, 2),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None)
def test_slabs_of_several_networks_are_averaged_wherever_each_is_cut(
    cuts: list[set[int]], axis: int, seed: int
) -> None:
    shape = [2, 3, 3, 3]
    shape[axis + 1] = 9
    generator = torch.Generator().manual_seed(seed)
    whole = [torch.rand(shape, generator=generator) for _ in cuts]
    weights = [1.0, 2.0, 4.0][: len(cuts)]
    members = []
    for probabilities, places in zip(whole, cuts, strict=True):
        edges = [0, *sorted(places), 9]
        members.append(iter([(low, probabilities.narrow(axis + 1, low, high - low)) for low, high in pairwise(edges)]))
    slabs = list(average_slabs(members, weights, axis))
    assert [start for start, _ in slabs] == [0, *sorted(set().union(*cuts))]
    expected = sum(weight * probabilities for weight, probabilities in zip(weights, whole, strict=True)) / sum(weights)
    torch.testing.assert_close(torch.cat([slab for _, slab in slabs], dim=axis + 1), expected)


def test_memory_does_not_grow_with_the_length_of_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    zeros = torch.zeros
    monkeypatch.setattr(torch, "zeros", lambda *size, **how: sizes.append(math.prod(size)) or zeros(*size, **how))
    slabs = list(predict_slabs(Brightness(), torch.rand(1, 200, 8, 8), (8, 8, 8), 0.5, "32"))
    assert max(sizes) == 3 * 8 * 8 * 8
    assert [start for start, _ in slabs] == list(range(0, 196, 4))
    assert sum(slab.shape[1] for _, slab in slabs) == 200


def test_every_window_has_the_size_of_the_training_crops() -> None:
    shapes = set()

    class RecordShapes(Brightness):
        def forward(self, volume: Tensor) -> Tensor:
            shapes.add(tuple(volume.shape[1:]))
            return super().forward(volume)

    predict_probabilities(RecordShapes(), torch.rand(2, 5, 30, 17), (8, 12, 16), 0.25, "32")
    assert shapes == {(2, 8, 12, 16)}


@pytest.mark.parametrize("together", [1, 5, 24])
def test_constant_windows_are_computed_once_per_value(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Air of two values around a body in channel 0, and an empty channel 1: the same labels from far fewer windows."""
    image = torch.zeros(2, 48, 16, 16)
    image[0, 32:] = 0.5
    image[0, 20:26] = torch.rand(6, 16, 16, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(inference, "BATCH_VOXELS", together * 8**3)
    batches = []

    class Count(Brightness):
        def forward(self, volume: Tensor) -> Tensor:
            batches.append(len(volume))
            return super().forward(volume)

    probabilities = predict_probabilities(Count(), image, (8, 8, 8), 0.0, "32")
    with torch.no_grad():
        torch.testing.assert_close(probabilities, Brightness()(image[None])[0].softmax(0))
    assert sum(batches) == 10  # of 24 windows: 8 with body, and one for each value of air
    assert max(batches) <= together


def test_predictions_near_the_middle_of_a_window_have_the_largest_weight() -> None:
    image = torch.zeros(1, 24, 8, 8)
    probabilities = predict_probabilities(Middle(2), image, (8, 8, 8), 0.5, "32")[1, :, 4, 4]
    # Windows start at 0, 4, 8, ...: after the first, each voxel is inside one window and near the face of another.
    # A plain mean would weight both equally.
    assert probabilities[2:22].min() > 0.7
    assert probabilities[:2].max() < 0.01


@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
def test_probabilities_sum_to_one(tiny_runs: TinyRuns, precision: str) -> None:
    network, _ = load_segmentor(tiny_runs.finetune)
    probabilities = predict_probabilities(network, torch.rand(1, 15, 9, 17), (12, 12, 12), 0.5, precision)
    assert probabilities.shape == (3, 15, 9, 17)
    assert probabilities.dtype == torch.float32
    assert not probabilities.requires_grad
    assert float(probabilities.min()) >= 0
    torch.testing.assert_close(probabilities.sum(0), torch.ones(15, 9, 17))


def test_half_precision_is_close_to_full_and_not_used_where_it_is_slow(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, _ = load_segmentor(tiny_runs.finetune)
    monkeypatch.setattr("voxmim.networks.precision.fast_bfloat16", lambda _: True)
    image = torch.rand(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    full, half = (predict_probabilities(network, image, (12, 12, 12), 0.5, p) for p in ("32", "bf16"))
    assert not torch.equal(full, half)
    assert float((full - half).abs().max()) < 0.05
    monkeypatch.setattr("voxmim.networks.precision.fast_bfloat16", lambda _: False)
    assert torch.equal(full, predict_probabilities(network, image, (12, 12, 12), 0.5, "bf16"))


def test_the_half_precision_sums_of_large_scans_are_close_to_full(
    tiny_runs: TinyRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, _ = load_segmentor(tiny_runs.finetune)
    image = torch.rand(1, 24, 20, 16, generator=torch.Generator().manual_seed(0))
    full = predict_probabilities(network, image, (12, 12, 12), 0.5, "32")
    monkeypatch.setattr("voxmim.tasks.segmentation.inference._LARGE_SUMS", 0)
    half = predict_probabilities(network, image, (12, 12, 12), 0.5, "32")
    assert not torch.equal(full, half)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0, atol=2e-3)


def test_the_fake_segmentor_labels_intensity_bands() -> None:
    """The fake segmentor that other tests use."""
    image = torch.tensor([0.0, 0.2, 0.3, 0.5, 0.7, 1.0]).reshape(1, 6, 1, 1)
    labels = predict_probabilities(ByIntensity(TINY_BANDS), image, (4, 4, 4), 0.25, "32").argmax(0)
    np.testing.assert_array_equal(labels.flatten(), [0, 2, 2, 0, 1, 1])
