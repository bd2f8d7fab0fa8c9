"""A classifier: global average pooling of the encoder's bottleneck features, a norm, and one linear layer."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from voxmim.networks.build import Encoder


class Classifier(nn.Module):
    """The encoder with a linear head.

    The pooled features of different scans are nearly the same. Training the encoder can change that. For a frozen
    encoder, `fit_scale` standardises each feature; without it a linear layer learns next to nothing.
    """

    middle: Tensor
    spread: Tensor

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = nn.LayerNorm(encoder.width, elementwise_affine=False)
        self.register_buffer("middle", torch.zeros(encoder.width))
        self.register_buffer("spread", torch.ones(encoder.width))
        self.head = nn.Linear(encoder.width, classes)
        nn.init.trunc_normal_(self.head.weight, std=0.01)  # all classes start about equally probable
        nn.init.zeros_(self.head.bias)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to logits (B, classes); raises as the encoder's `encode` does."""
        return self.head((self.pooled(volume) - self.middle) / self.spread)

    def pooled(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to the normalised mean (B, width) of the bottleneck features, float32."""
        return self.norm(self.encoder.encode(volume).float().mean(dim=(2, 3, 4)))

    @torch.no_grad()
    def fit_scale(self, volumes: Iterable[Tensor]) -> None:
        """Standardise each feature over volumes (B, C, X, Y, Z); features that hardly vary are not scaled up."""
        features = torch.cat([self.pooled(volume) for volume in volumes])
        variance = features.var(dim=0, correction=0)
        self.middle.copy_(features.mean(dim=0))
        self.spread.copy_((variance + 0.1 * variance.mean() + 1e-12).sqrt())


class Regressor(Classifier):
    """A classifier with one output, scaled by the `mean` and `std` of the training values."""

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: Encoder, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__(encoder, 1)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))

    def forward(self, volume: Tensor) -> Tensor:
        """(B, C, X, Y, Z) to numbers (B, 1) float32."""
        return super().forward(volume).float() * self.std + self.mean
