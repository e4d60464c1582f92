"""What every objective is: a student, and one forward from a batch to weighted loss terms."""

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mgd.config import Criterion
from mgd.data.loaders import Batch, Views
from mgd.losses import mean_of_hard, mean_of_valid, pixel_cross_entropy
from mgd.metrics import IGNORE_INDEX
from mgd.models.deeplab import DeepLabV3Plus, upsample

Terms = dict[str, Tensor]  # scalar loss terms, already weighted


class Pass(NamedTuple):
    """Terms of a micro-batch that share a graph.

    Whoever runs backward on each pass before the next is computed holds one pass's activations at a time.
    """

    counts: Mapping[str, Tensor]  # term -> pixels or images that its mean runs over, known before any forward
    terms: Callable[[], Terms]  # computes the weighted means


class Objective(nn.Module):
    """All trainable computation of a step; the loss is the sum of its terms.

    Attributes:
        student: the network that the run is for.
        teachers: frozen networks, by name; outside `train()`, `parameters()`, `state_dict()` and DDP.
    """

    student: DeepLabV3Plus
    teachers: Mapping[str, DeepLabV3Plus] = MappingProxyType({})

    def passes(self, batch: Batch) -> list[Pass]:
        """What a step computes, to be computed in this order; a term of several passes has the same count in each.

        The counts make a batch divisible: whoever trains on it in parts weighs a part's means with its counts, so that
        a mean over pixels is the one over the whole batch however that is divided.
        """
        raise NotImplementedError

    def forward(self, batch: Batch) -> Terms:
        """The terms of all passes at once: what DDP wraps."""
        return total(one.terms() for one in self.passes(batch))

    def after_update(self, iteration: int) -> None:
        """What follows the update of an iteration, such as averaging the new weights; nothing, by default."""


def total(passes: Iterable[Terms]) -> Terms:
    """Sum over the passes of the terms of each name."""
    sums: Terms = {}
    for terms in passes:
        for name, term in terms.items():
            sums[name] = sums[name] + term if name in sums else term
    return sums


def see(network: DeepLabV3Plus, views: Views) -> Tensor:
    """Views as the network wants them: normalised with its own statistics, 0 in the crop padding.

    A float image is taken to be normalised already, and its padding to be 0.
    """
    return network.normalise(views.image, views.valid) if views.image.dtype == torch.uint8 else views.image


def supervised_loss(losses: Tensor, target: Tensor, criterion: Criterion) -> Tensor:
    """The criterion's mean of the pixels' cross-entropies (N,H,W).

    OHEM chooses the hard pixels of every image by itself, so that they do not depend on the images beside it, and is
    the mean over the images that have a valid pixel.
    """
    if criterion.kind == "ohem":
        of_images = mean_of_hard(losses, target, threshold=criterion.threshold, min_kept=criterion.min_kept)
        return of_images.sum() / supervised_count(target, criterion).clamp(min=1)
    return mean_of_valid(losses, target)


def criterion_loss(network: DeepLabV3Plus, views: Views, target: Tensor, criterion: Criterion) -> Tensor:
    """The criterion's loss of a network on images."""
    logits = network.classifier(network.feature(see(network, views)))
    (losses,) = pixel_cross_entropy(logits, [target])
    return supervised_loss(losses, target, criterion)


def supervised_pass(network: DeepLabV3Plus, labeled: Views, criterion: Criterion) -> Pass:
    """The criterion's loss of a network on labelled images, as the term "supervised"."""
    label = labeled.label
    assert label is not None

    def terms() -> Terms:
        return {"supervised": criterion_loss(network, labeled, label, criterion)}

    return Pass({"supervised": supervised_count(label, criterion)}, terms)


def supervised_count(target: Tensor, criterion: Criterion) -> Tensor:
    """How many pixels (OHEM: images) of a (N,H,W) target the criterion's mean runs over."""
    valid = target != IGNORE_INDEX
    return valid.flatten(1).any(dim=1).sum() if criterion.kind == "ohem" else valid.sum()


def rampup(iteration: int, iterations: int) -> float:
    """Sigmoid ramp-up from exp(-5) to 1 over `iterations` (Laine and Aila, ICLR 2017); 1 from then on."""
    if iteration >= iterations:
        return 1.0
    return math.exp(-5.0 * (1.0 - iteration / iterations) ** 2)


def hard_label(network: DeepLabV3Plus, feature: Tensor, valid: Tensor) -> Tensor:
    """A decoder feature of N images -> their (N,H,W) uint8 pseudo-label; 255 where there is no image.

    Image by image: full-resolution logits of a batch would only be thrown away.
    """
    logits = network.classifier(feature)
    labels = [upsample(one, valid.shape[-2:]).argmax(dim=1) for one in logits.split(1)]
    return torch.where(valid, torch.cat(labels), IGNORE_INDEX).byte()
