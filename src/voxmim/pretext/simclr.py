"""SimCLR (arXiv 2002.05709) on 3D volumes: two views of a crop are told from all the others of the batch.

Each view is encoded, pooled over the cells of the deepest map, and projected. The loss asks of every view which of
the other views, over all processes, is its partner.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from voxmim.networks.vit import initialise


class SimCLROutput(NamedTuple):
    """What one forward pass gives; all but `spread` are means over the views of this process.

    Attributes:
        loss: scalar, the NT-Xent loss.
        positive: scalar, the cosine of a view and its partner.
        negative: scalar, the cosine of a view and one that is not its partner.
        accuracy: scalar, the share of views whose nearest other view is their partner.
        spread: scalar, the standard deviation of the normalised projections of all processes, as a mean over their
            dimensions: 0 when the representation has collapsed, 1 / sqrt(width) when it fills the sphere.
    """

    loss: Tensor
    positive: Tensor
    negative: Tensor
    accuracy: Tensor
    spread: Tensor


class PoolableEncoder(Protocol):
    """What SimCLR asks of an encoder: `width`, the channels of the deepest map, and the map itself."""

    width: int

    def encode(self, volume: Tensor) -> Tensor:
        """(B, width, ...) the deepest map."""


class SimCLR(nn.Module):
    """Encoder, projection head and loss.

    Args:
        encoder: the network that is pre-trained.
        projection_width: length of a projection.
        hidden_width: of the head's hidden layer; None makes it as wide as the encoder, as in the paper.
        temperature: what cosines are divided by; the lower it is, the more the hardest negatives count.
    """

    def __init__(
        self,
        encoder: PoolableEncoder,
        projection_width: int = 128,
        hidden_width: int | None = None,
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder, self.temperature = encoder, temperature
        hidden = hidden_width or encoder.width
        self.head = nn.Sequential(
            nn.Linear(encoder.width, hidden, bias=False),
            ViewNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, projection_width, bias=False),
            ViewNorm(projection_width, shift=False),
        )
        initialise(self.head)

    def forward(self, first: Tensor, second: Tensor) -> SimCLROutput:
        """Encode, project and compare two views (B, C, X, Y, Z) of the same crops, in the same order.

        Raises:
            ValueError: there is but one pair over all processes.
        """
        encoded = self.encoder.encode(torch.cat([first, second]))
        pooled = encoded.flatten(2).float().mean(2)
        with torch.autocast(pooled.device.type, enabled=False):  # half precision would blur what views differ by
            a, b = self.head(pooled).chunk(2)
        return nt_xent(a, b, self.temperature)


class ViewNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167) over the views of all processes, as SimCLR's own code has it in its head.

    Crops of one organ look alike, and what they have in common would fill their projections: all would be nearly the
    same from the start. There are no running statistics, since a head meets whole batches only.

    Args:
        width: features of a view.
        shift: whether a learned shift follows the learned scale.
    """

    def __init__(self, width: int, shift: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if shift else None

    def forward(self, own: Tensor) -> Tensor:
        """(B, width) of this process's views, in float32."""
        variance, mean = torch.var_mean(_gather(own)[0], dim=0, correction=0)
        found = (own - mean) * (variance + 1e-5).rsqrt() * self.weight
        return found if self.bias is None else found + self.bias


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> SimCLROutput:
    """The normalised temperature-scaled cross entropy of paired projections, and what is watched beside it.

    Under `torch.distributed`, the views of all processes are each other's negatives; every process must bring as many
    pairs as the next.

    Args:
        a: (B, D) projections of the first views, of any length other than 0.
        b: (B, D) projections of the second views.
        temperature: what cosines are divided by.

    Raises:
        ValueError: there is but one pair over all processes.
    """
    with torch.autocast(a.device.type, enabled=False):  # half precision would blur near-equal cosines
        own = functional.normalize(torch.cat([a, b]).float(), dim=1)
        everyone, offset = _gather(own)
        if len(everyone) < 4:
            raise ValueError("a single pair of views has nothing to be told from; make the batch larger")
        cosine = own @ everyone.T
    place = torch.arange(len(own), device=own.device)
    itself, partner = offset + place, offset + place.roll(len(a))

    # Each process averages over its own views, which are compared to everyone's. The gradient that a process gets back
    # for its views is the sum over the losses of all processes; so the mean of the losses, and the mean of the
    # parameters' gradients that DDP takes, are those of a single process with the joint batch, without any scaling.
    logits = (cosine / temperature).scatter(1, itself.unsqueeze(1), -torch.inf)
    loss = functional.cross_entropy(logits, partner)

    with torch.no_grad():
        others = torch.ones_like(cosine, dtype=torch.bool)
        others[place, itself] = others[place, partner] = False
        return SimCLROutput(
            loss,
            positive=cosine[place, partner].mean(),
            negative=cosine[others].mean(),
            accuracy=(logits.argmax(1) == partner).float().mean(),
            spread=everyone.std(0).mean(),
        )


def _gather(own: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, one process under the other, and the index of this process's first row."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return own, 0
    return _Gather.apply(own), distributed.get_rank() * len(own)


class _Gather(torch.autograd.Function):
    """Rows gathered over all processes, with the gradient: that of all processes for a row, summed."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        rows = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(rows, own.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]
