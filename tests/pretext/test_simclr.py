"""SimCLR: each view is matched with its partner among all others, also across processes."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn

from processes import in_two_processes
from voxmim.pretext.simclr import SimCLR, SimCLROutput, SimCLRSettings, nt_xent


class Filter(nn.Module):
    """A small linear encoder."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv3d(1, self.width, 2, 2, bias=False)  # the head removes what all views have in common

    def encode(self, volume: Tensor) -> Tensor:
        return self.cells(volume)


def make_simclr() -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(Filter(), SimCLRSettings(projection_width=5, temperature=0.5))  # type: ignore[arg-type]


def some(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def figures(output: SimCLROutput) -> Tensor:
    return torch.stack([output.loss, output.accuracy, output.std])


def two_views(pairs: int) -> tuple[Tensor, Tensor]:
    first = some(pairs, 1, 4, 2, 6)
    return first, first + 0.5 * some(pairs, 1, 4, 2, 6, seed=2)


def cosine(u: list[float], v: list[float]) -> float:
    return sum(x * y for x, y in zip(u, v, strict=True)) / (math.hypot(*u) * math.hypot(*v))


def plain(a: Tensor, b: Tensor, temperature: float) -> list[float]:
    """Loss, accuracy and std by loops over views."""
    views, pairs = [*a.tolist(), *b.tolist()], len(a)
    losses, hits = [], []
    for i, view in enumerate(views):
        partner = (i + pairs) % len(views)
        cosines = {j: cosine(view, other) for j, other in enumerate(views) if j != i}
        total = sum(math.exp(c / temperature) for c in cosines.values())
        losses.append(-math.log(math.exp(cosines[partner] / temperature) / total))
        hits.append(max(cosines, key=cosines.__getitem__) == partner)
    unit = [[x / math.hypot(*view) for x in view] for view in views]
    deviations = []
    for column in zip(*unit, strict=True):
        mean = sum(column) / len(column)
        deviations.append(math.sqrt(sum((x - mean) ** 2 for x in column) / (len(column) - 1)))
    return [sum(part) / len(part) for part in (losses, hits, deviations)]


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("pairs", [2, 5])
def test_loss_and_metrics_agree_with_plain_loops(pairs: int, temperature: float) -> None:
    a = some(pairs, 4) * 3
    b = a + some(pairs, 4, seed=2)
    values = figures(nt_xent(a, b, temperature)).tolist()
    assert values == pytest.approx(plain(a, b, temperature), rel=1e-5, abs=1e-6)


def test_forward_pools_projects_and_compares() -> None:
    simclr, views = make_simclr(), two_views(3)
    first_layer, _, _, second_layer, _ = simclr.head
    norms = [
        nn.BatchNorm1d(layer.out_features) for layer in (first_layer, second_layer)
    ]  # at their initial values, as in the head
    pooled = torch.cat([simclr.encoder.encode(view).mean((2, 3, 4)) for view in views])
    projections = norms[1](second_layer(norms[0](first_layer(pooled)).clamp(min=0)))
    expected = nt_xent(*projections.chunk(2), 0.5)
    torch.testing.assert_close(figures(simclr(*views)), figures(expected))
    assert second_layer.out_features == 5


def test_similar_views_are_distinguished_before_training() -> None:
    """Without normalisation in the head, a common offset would give all projections the same direction."""
    simclr, (first, second) = make_simclr(), two_views(8)
    output = simclr(first + 1000, second + 1000)
    torch.testing.assert_close(figures(output), figures(simclr(first, second)), atol=1e-2, rtol=1e-2)
    assert output.std > 0.5 * 5**-0.5


def test_only_the_direction_of_a_projection_counts() -> None:
    a, b = some(4, 3), some(4, 3, seed=2)
    scaled = nt_xent(a * torch.tensor([[9.0], [0.1], [3.0], [1.0]]), b * 5, 0.1)
    torch.testing.assert_close(figures(scaled), figures(nt_xent(a, b, 0.1)))


def test_a_high_temperature_weights_all_views_equally_and_a_low_one_only_the_nearest() -> None:
    a = torch.eye(4)
    assert nt_xent(a, some(4, 4), 1e6).loss.item() == pytest.approx(math.log(7), abs=1e-4)
    assert nt_xent(a, a, 0.01).loss.item() == pytest.approx(0, abs=1e-6)
    # the cosine is 0 with the partner and 1 with one other view
    swapped = nt_xent(a[:2], a[[1, 0]], 0.1)
    assert swapped.loss.item() == pytest.approx(10, abs=1e-3)
    assert swapped.accuracy.item() == 0


def test_the_loss_depends_on_the_pairing_and_not_on_the_order() -> None:
    a, b = some(5, 4), some(5, 4) + 0.3 * some(5, 4, seed=2)
    order = torch.tensor([3, 0, 4, 1, 2])
    values = figures(nt_xent(a, b, 0.1))
    torch.testing.assert_close(figures(nt_xent(a[order], b[order], 0.1)), values)
    torch.testing.assert_close(figures(nt_xent(b, a, 0.1)), values)
    assert nt_xent(a, b[order], 0.1).loss > values[0] + 1


def test_the_std_distinguishes_a_collapse_from_a_uniform_distribution() -> None:
    direction = some(1, 16)
    length = torch.rand(500, 1, generator=torch.Generator().manual_seed(3)) + 0.5
    collapsed = nt_xent(length * direction, length * direction, 0.1)
    assert collapsed.std.item() == pytest.approx(0, abs=1e-6)
    full = nt_xent(some(500, 16), some(500, 16, seed=2), 0.1)
    assert full.std.item() == pytest.approx(1 / 4, rel=0.02)


def test_near_equal_cosines_are_distinguished_under_autocast() -> None:
    a = some(1, 8) + 0.02 * some(6, 8, seed=2)
    b = a + 0.005 * some(6, 8, seed=3)
    with torch.autocast("cpu", torch.bfloat16):
        output = nt_xent(a, b, 0.1)
    torch.testing.assert_close(figures(output), figures(nt_xent(a, b, 0.1)), atol=0, rtol=0)


def test_a_single_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="single pair"):
        nt_xent(some(1, 4), some(1, 4), 0.1)


def test_every_parameter_gets_a_gradient() -> None:
    simclr = make_simclr()
    simclr(*two_views(4)).loss.backward()
    assert [name for name, p in simclr.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_few_steps_reduce_the_loss_and_increase_the_accuracy() -> None:
    simclr, (first, second) = make_simclr(), two_views(8)
    before = simclr(first, second)
    optimiser = torch.optim.AdamW(simclr.parameters(), lr=1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        simclr(first, second).loss.backward()
        optimiser.step()
    after = simclr(first, second)
    assert after.loss < 0.6 * before.loss
    assert after.accuracy > before.accuracy


def train_on_half(folder: Path) -> None:
    """Run one of two processes with half of six pairs; write its metrics and the gradients averaged as by DDP."""
    rank = int(os.environ["LOCAL_RANK"])
    distributed.init_process_group("gloo", rank=rank)
    simclr = make_simclr()
    views = [view[3 * rank : 3 * rank + 3] for view in two_views(6)]
    output = simclr(*views)
    output.loss.backward()
    gradients = {name: parameter.grad / 2 for name, parameter in simclr.named_parameters()}
    for gradient in gradients.values():
        distributed.all_reduce(gradient)
    torch.save({"output": figures(output).detach(), "gradients": gradients}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def test_two_processes_give_the_loss_and_gradients_of_one_with_the_joint_batch(tmp_path: Path) -> None:
    assert in_two_processes(train_on_half, tmp_path) == [0, 0]
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    simclr = make_simclr()
    joint = simclr(*two_views(6))
    joint.loss.backward()

    assert results[0]["output"][0] != results[1]["output"][0]
    together = (results[0]["output"] + results[1]["output"]) / 2
    torch.testing.assert_close(together, figures(joint).detach(), atol=1e-6, rtol=0)
    for name, parameter in simclr.named_parameters():
        for result in results:
            torch.testing.assert_close(result["gradients"][name], parameter.grad, atol=1e-6, rtol=1e-6)
        assert parameter.grad.abs().max() > 1e-3
