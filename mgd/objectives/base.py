"""What every objective is: a student, and one forward from a batch to weighted loss terms."""

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mgd.config import Criterion
from mgd.data.loaders import Batch
from mgd.losses import cross_entropy, ohem_cross_entropy
from mgd.metrics import IGNORE_INDEX
from mgd.models.deeplab import DeepLabV3Plus

Terms = dict[str, Tensor]  # scalar loss terms, already weighted


class Objective(nn.Module):
    """All trainable computation of a step; the loss is the sum of its terms.

    Attributes:
        student: the network that the run is for.
        teachers: frozen networks, by name; outside `train()`, `parameters()`, `state_dict()` and DDP.
    """

    student: DeepLabV3Plus
    teachers: Mapping[str, DeepLabV3Plus] = MappingProxyType({})

    def parts(self, batch: Batch) -> Iterator[Terms]:
        """The terms, in groups that share no graph.

        Whoever runs backward on each group before asking for the next holds one group's activations at a time.
        """
        raise NotImplementedError

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many pixels, or images, the mean in a term runs over; known from the data, before any forward.

        A term without a count is a mean over the batch's images. Whoever trains on a batch in parts weighs a part's
        terms with its counts, so that a mean over pixels is the one over the whole batch however that is divided.
        """
        raise NotImplementedError

    def forward(self, batch: Batch) -> Terms:
        """All terms at once: what DDP wraps."""
        terms: Terms = {}
        for part in self.parts(batch):
            add_terms(terms, part)
        return terms


def add_terms(sums: Terms, terms: Mapping[str, Tensor]) -> None:
    """Add terms to the sums of the same names, in place."""
    for name, term in terms.items():
        sums[name] = sums[name] + term if name in sums else term


def supervised_loss(logits: Tensor, target: Tensor, criterion: Criterion) -> Tensor:
    """The criterion's loss.

    OHEM chooses the hard pixels of every image by itself, so that they do not depend on the images beside it, and is
    the mean over the images that have a valid pixel.
    """
    if criterion.kind == "ohem":
        options: dict[str, Any] = {"threshold": criterion.threshold, "min_kept": criterion.min_kept}
        pairs = zip(logits.split(1), target.split(1), strict=True)
        losses = torch.stack([ohem_cross_entropy(one, its_target, **options) for one, its_target in pairs])
        return losses.sum() / supervised_count(target, criterion).clamp(min=1)
    return cross_entropy(logits, target)


def supervised_count(target: Tensor, criterion: Criterion) -> Tensor:
    """How many pixels (OHEM: images) of a (N,H,W) target the criterion's mean runs over."""
    valid = target != IGNORE_INDEX
    return valid.flatten(1).any(dim=1).sum() if criterion.kind == "ohem" else valid.sum()


def rampup(iteration: int, iterations: int) -> float:
    """Sigmoid ramp-up from exp(-5) to 1 over `iterations` (Laine and Aila, ICLR 2017); 1 from then on."""
    if iteration >= iterations:
        return 1.0
    return math.exp(-5.0 * (1.0 - iteration / iterations) ** 2)


def hard_label(logits: Tensor, valid: Tensor) -> Tensor:
    """(N,K,H,W) -> (N,H,W) int64 pseudo-label; 255 where there is no image."""
    return torch.where(valid, logits.argmax(dim=1), IGNORE_INDEX)
