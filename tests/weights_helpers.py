"""Helpers of the tests of other packages' weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def perturbed(network: nn.Module) -> nn.Module:
    """Perturb every parameter of a network, including those of norms; return it in evaluation mode."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return network.eval()


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def assert_same(ours: Tensor | list[Tensor], theirs: Tensor | list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
