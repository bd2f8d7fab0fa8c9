from __future__ import annotations

import pytest
import torch
from torch import nn

from voxmim.training.average import Average


def moved(network: nn.Module, step: int) -> None:
    """As a step of a training would move the weights."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_it_is_that_of_a_plain_loop(decay: float) -> None:
    network = nn.Linear(3, 2)
    average, expected = Average(network, decay), None
    for step in range(5):
        moved(network, step)
        average.update()
        own = network.weight.detach().clone()
        expected = own if expected is None else decay * expected + (1 - decay) * own
        with average.in_place():
            torch.testing.assert_close(network.weight.detach(), expected)
        assert torch.equal(network.weight, own)


def test_it_goes_on_from_its_state() -> None:
    networks = [nn.Linear(3, 2), nn.Linear(3, 2)]
    one, other = (Average(network, 0.9) for network in networks)
    for step in range(6):
        if step == 3:
            other.load(one.state())
        for network in networks:
            moved(network, step)
        one.update()
        if step >= 3:
            other.update()
    torch.testing.assert_close(one.state(), other.state(), rtol=0, atol=0)


def test_the_networks_own_weights_come_back_after_an_error() -> None:
    network = nn.Linear(3, 2)
    average = Average(network, 0.9)
    average.update()
    moved(network, 1)
    own = network.weight.detach().clone()
    with pytest.raises(ValueError, match="stop"), average.in_place():
        raise ValueError("stop")
    assert torch.equal(network.weight, own)
