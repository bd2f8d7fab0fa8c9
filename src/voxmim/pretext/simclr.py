"""SimCLR (arXiv 2002.05709) on 3D volumes: two views of a scan are matched among all views of the batch.

Each view is encoded, averaged over the bottleneck features, and projected. The loss is the cross entropy of picking a
view's partner among the views of all processes.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_gather
from torch.nn import functional

from voxmim.networks.base import Encoder
from voxmim.networks.vit import initialise
from voxmim.pretext.pretext import Pretext
from voxmim.settings import Augmentation, MaskSettings, Training, check_range

COLLAPSED = 0.1  # of the std of projections that fill the sphere; less is collapse

# Stronger than for masked pretexts, or matching the views would be too easy.
AUGMENTATION = Augmentation(flip=0.5, rot90=0.0, affine=0.5, shift=0.2, contrast=0.3, noise=0.1, intensity=0.8)


@dataclass
class SimCLRSettings:
    """SimCLR.

    Attributes:
        projection_width: length of a projection.
        hidden_width: of the projection head's hidden layer; null means the encoder's width, as in the paper.
        temperature: divisor of the cosines; with a lower one, the hardest negatives have a larger weight.
        overlap: minimum overlap of two views along each axis, as a fraction of the crop.
    """

    projection_width: int = 128
    hidden_width: int | None = None
    temperature: float = 0.1
    overlap: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, "projection_width", 1)
        check_range(self, "temperature", 0, bounds="()")
        check_range(self, "overlap", 0, 1)


class SimCLROutput(NamedTuple):
    """The result of a forward pass; loss and accuracy are means over the views of this process.

    The standard deviation is that of the normalised projections of all processes, averaged over their dimensions: 0
    if the representation has collapsed, 1 / sqrt(width) if it fills the sphere.
    """

    loss: Tensor  # scalar, the NT-Xent loss
    accuracy: Tensor  # scalar, the fraction of views whose nearest other view is their partner
    std: Tensor  # scalar
    others: int  # the number of views among which the partner is searched


class SimCLR(Pretext):
    """Any encoder, a projection head, and the loss; nothing is masked."""

    Settings = SimCLRSettings
    title: ClassVar[str] = "SimCLR"
    views: ClassVar[int] = 2
    samples: ClassVar[str] = "pairs of crops"
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    columns: ClassVar[tuple[str, ...]] = ("val_loss", "val_guess", "val_std", "val_accuracy")
    guess: ClassVar[str] = "guessing the partner of a view"
    remedies: ClassVar[str] = "another pretrain.lr, more pretrain.steps, a larger pretrain.batch or more augmentation"

    def __init__(self, encoder: Encoder, settings: SimCLRSettings, mask: MaskSettings | None = None) -> None:
        super().__init__()
        self.encoder, self.settings, self.overlap = encoder, settings, settings.overlap
        hidden = settings.hidden_width or encoder.width
        self.head = nn.Sequential(
            nn.Linear(encoder.width, hidden, bias=False),
            ViewNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, settings.projection_width, bias=False),
            ViewNorm(settings.projection_width, shift=False),
        )
        initialise(self.head)

    @classmethod
    def check(cls, settings: Any, training: Training) -> None:
        if training.batch < 2:
            raise ValueError("pretrain.batch is 1, but SimCLR compares pairs with each other and needs 2 or more")
        if training.accumulate > 1:
            raise ValueError("pretrain.accumulate must be 1 with SimCLR, which compares all pairs of a step")

    def inputs(self, image: Tensor, seeds: Tensor, present: Tensor | None = None) -> tuple[Any, ...]:
        return image[0::2], image[1::2]

    def forward(self, first: Tensor, second: Tensor) -> SimCLROutput:
        """Encode, project and compare two views (B, C, X, Y, Z) of the same scans, in the same order; see `nt_xent`."""
        encoded = self.encoder.encode(torch.cat([first, second]))
        pooled = encoded.flatten(2).float().mean(2)
        with torch.autocast(pooled.device.type, enabled=False):  # half precision would lose small differences
            a, b = self.head(pooled).chunk(2)
        return nt_xent(a, b, self.settings.temperature)

    def figures(self, output: SimCLROutput) -> dict[str, Tensor]:
        guess = output.loss.new_tensor(math.log(output.others))
        return {"val_loss": output.loss, "val_guess": guess, "val_std": output.std, "val_accuracy": output.accuracy}

    @classmethod
    def collapse(cls, settings: SimCLRSettings, row: Mapping[str, float]) -> str:
        full = settings.projection_width**-0.5
        if row["val_std"] >= COLLAPSED * full:
            return ""
        return (
            f"the projections of different scans are nearly the same (std {row['val_std']:.4f}; {full:.4f} would fill "
            "the space). Try a lower pretrain.lr, a larger pretrain.batch, or a higher simclr.temperature."
        )

    @classmethod
    def summary(cls, settings: SimCLRSettings, mask: MaskSettings) -> str:
        return "learned to match two views of a scan among the views of other scans (SimCLR)"

    @classmethod
    def loss_name(cls, settings: SimCLRSettings) -> tuple[str, str]:
        return "Contrastive loss", "NT-Xent"

    @classmethod
    def progress(cls, settings: SimCLRSettings, first: Mapping[str, float], last: Mapping[str, float]) -> str:
        return (
            f"{super().progress(settings, first, last)} The partner was found for {first['val_accuracy']:.0%} of the "
            f"views, then for {last['val_accuracy']:.0%}. The std of the projections was {last['val_std']:.4f}; 0 is "
            f"collapse, and {settings.projection_width**-0.5:.4f} fills the space."
        )

    @classmethod
    def comparable(cls, training: Training) -> dict[str, Any]:
        """SimCLR compares the crops of a batch: twice as many pairs, half the learning rate, strong augmentation."""
        return {
            "pretrain.batch": 2 * training.batch,
            "pretrain.accumulate": 1,
            "pretrain.lr": training.lr / 2,
            "pretrain.augmentation": asdict(AUGMENTATION),
        }


class ViewNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167) over the views of all processes, as in the head of SimCLR's own code.

    Crops of one organ look alike, so without it all projections would be nearly the same from the start. There are no
    running statistics, since the head is only used on batches.
    """

    def __init__(self, width: int, shift: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if shift else None

    def forward(self, own: Tensor) -> Tensor:
        """(B, width) of this process's views, in float32."""
        variance, mean = torch.var_mean(_gather(own)[0], dim=0, correction=0)
        scaled = (own - mean) * (variance + 1e-5).rsqrt() * self.weight
        return scaled if self.bias is None else scaled + self.bias


def nt_xent(a: Tensor, b: Tensor, temperature: float) -> SimCLROutput:
    """The normalised temperature-scaled cross entropy of paired projections.

    Under `torch.distributed`, the views of all processes are each other's negatives; every process must have the same
    number of pairs. The projections (B, D) of the first and the second views may have any length other than 0.

    Raises:
        ValueError: there is only one pair over all processes.
    """
    with torch.autocast(a.device.type, enabled=False):  # half precision would make similar cosines equal
        own = functional.normalize(torch.cat([a, b]).float(), dim=1)
        everyone, offset = _gather(own)
        if len(everyone) < 4:
            raise ValueError("a single pair of views has no negatives; make the batch larger")
        cosine = own @ everyone.T
    row = torch.arange(len(own), device=own.device)
    itself, partner = offset + row, offset + row.roll(len(a))

    # Each process averages the loss over its own views, compared with those of all processes. The gradient of its views
    # is the sum over the losses of all processes. So the mean loss, and DDP's mean of the parameters' gradients, are
    # those of a single process with the joint batch, without any scaling.
    logits = (cosine / temperature).scatter(1, itself.unsqueeze(1), -torch.inf)
    loss = functional.cross_entropy(logits, partner)

    accuracy = (logits.argmax(1) == partner).float().mean()
    return SimCLROutput(loss, accuracy, everyone.detach().std(0).mean(), len(everyone) - 1)


def _gather(own: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes, with the gradient of all, and the index of this process's first row."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return own, 0
    return torch.cat(all_gather(own)), distributed.get_rank() * len(own)
