"""What every objective is: a student, and one forward from a batch to weighted loss terms."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd.config import CPS, MGD, Criterion, MeanTeacher, Method, UniMatch, burn_in
from mgd.data.batch import Batch, Views, neighbours
from mgd.data.cutmix import mix
from mgd.losses import chunks, mean_of_hard, mean_of_valid, pixel_cross_entropy, weigh
from mgd.metrics import IGNORE_INDEX
from mgd.models.network import SegmentationNetwork
from mgd.objectives.thresholds import AdaptiveThresholds

Confidence = tuple[float, ...] | AdaptiveThresholds  # one for all classes, one for each, or none; or what follows a run
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
        class_weights: of the classes in the term "supervised"; none weigh alike.
    """

    student: SegmentationNetwork
    config: Method
    class_weights: tuple[float, ...] = ()
    teachers: Mapping[str, SegmentationNetwork] = MappingProxyType({})

    @property
    def labellers(self) -> Mapping[str, SegmentationNetwork]:
        """The networks besides the student whose pseudo-labels teach it, by name."""
        return self.teachers

    def weights(self, iteration: int) -> dict[str, float]:
        """The factors of the terms in the loss of an iteration, counted from 0; those that are not here have 1."""
        return {}

    def weighted(self, terms: Terms, iteration: int) -> Terms:
        """Terms as they stand in the loss of an iteration."""
        weights = self.weights(iteration)
        return {name: weights[name] * term if name in weights else term for name, term in terms.items()}

    def passes(self, batch: Batch) -> list[Pass]:
        """What a step computes, to be computed in this order; a term of several passes has the same count in each.

        The counts make a batch divisible: whoever trains on it in parts weighs a part's means with its counts, so that
        a mean over pixels is the one over the whole batch however that is divided.
        """
        raise NotImplementedError

    def burns_in(self, iteration: int) -> bool:
        """Whether labels alone teach all that is trained, in an iteration counted from 0."""
        return iteration < burn_in(self.config)

    def refines(self, batch: Batch) -> bool:
        """Whether a batch is of the last stage, whose labels teach the student alone: it has no unlabelled images."""
        return self.config.uses_unlabeled and batch.first is None and not self.burns_in(batch.iteration)

    def due(self, batch: Batch) -> list[Pass]:
        """`passes`, or what is left of them in a last stage."""
        if not self.refines(batch):
            return self.passes(batch)
        return [supervised_pass(self.student, batch.labeled, self.config.criterion, self.class_weights)]

    def forward(self, batch: Batch) -> Terms:
        """The terms of all that is due at once: what DDP wraps."""
        terms = total(one.terms() for one in self.due(batch))
        if self.refines(batch) and (beside := self.beside_the_student()):
            # DDP waits for a gradient of every weight: of those that learn no more it is 0.
            terms["supervised"] = terms["supervised"] + 0.0 * torch.stack([p.sum() for p in beside]).sum()
        return terms

    def beside_the_student(self) -> list[nn.Parameter]:
        """What is trained besides the student."""
        named = ((name.partition(".")[0], p) for name, p in self.named_parameters() if p.requires_grad)
        return [parameter for owner, parameter in named if owner != "student"]

    def after_update(self, iteration: int) -> None:
        """What follows the update of an iteration, such as averaging the new weights; nothing, by default."""


def total(passes: Iterable[Terms]) -> Terms:
    """Sum over the passes of the terms of each name."""
    sums: Terms = {}
    for terms in passes:
        for name, term in terms.items():
            sums[name] = sums[name] + term if name in sums else term
    return sums


def see(network: SegmentationNetwork, views: Views) -> Tensor:
    """Views as the network wants them: normalised with its own statistics, 0 in the crop padding.

    A float image is taken to be normalised already, and its padding to be 0.
    """
    return network.normalise(views.image, views.valid) if views.image.dtype == torch.uint8 else views.image


def supervised_loss(
    losses: Tensor,
    target: Tensor,
    criterion: Criterion,
    *,
    counted: Tensor | None = None,
    weights: tuple[float, ...] = (),
) -> Tensor:
    """The criterion's mean of the pixels' cross-entropies (N,H,W).

    OHEM chooses the hard pixels of every image by itself, so that they do not depend on the images beside it, and is
    the mean over the images that have a valid pixel.

    Args:
        counted: (N,H,W), the mean runs over what is not 255 there instead of in the target: pseudo-labels that are left
            out then count as 0.
        weights: of the classes; the mean still runs over pixels, each of which counts once.
    """
    if criterion.kind == "ohem":
        threshold, min_kept = criterion.threshold, criterion.min_kept
        of_images = mean_of_hard(losses, target, threshold=threshold, min_kept=min_kept, weights=weights)
        return of_images.sum() / supervised_count(target if counted is None else counted, criterion).clamp(min=1)
    return mean_of_valid(weigh(losses, target, weights), target if counted is None else counted)


def criterion_loss(
    network: SegmentationNetwork,
    views: Views,
    target: Tensor,
    criterion: Criterion,
    *,
    counted: Tensor | None = None,
    weights: tuple[float, ...] = (),
) -> Tensor:
    """The criterion's loss of a network on images; `counted` and `weights` as in `supervised_loss`."""
    logits = network.classifier(network.feature(see(network, views)))
    (losses,) = pixel_losses(network, logits, [target])
    return supervised_loss(losses, target, criterion, counted=counted, weights=weights)


def pixel_losses(network: SegmentationNetwork, logits: Tensor, targets: Sequence[Tensor]) -> list[Tensor]:
    """`pixel_cross_entropy` of what a network's classifier gives, for targets of its image's size."""
    height, width = targets[0].shape[1:]
    padded = [fill(network, target, IGNORE_INDEX) for target in targets]
    return [losses[:, :height, :width] for losses in pixel_cross_entropy(logits, padded)]


def fill(network: SegmentationNetwork, values: Tensor, value: int) -> Tensor:
    """(N,H,W) of an image's size -> of the size that the network pads the image to."""
    height, width = values.shape[1:]
    rows, columns = network.padded(height, width)
    if (rows, columns) == (height, width):
        return values
    return F.pad(values, (0, columns - width, 0, rows - height), value=value)


def supervised_pass(
    network: SegmentationNetwork, labeled: Views, criterion: Criterion, weights: tuple[float, ...] = ()
) -> Pass:
    """The criterion's loss of a network on labelled images, with the classes' weights, as the term "supervised"."""
    label = labeled.label
    assert label is not None

    def terms() -> Terms:
        return {"supervised": criterion_loss(network, labeled, label, criterion, weights=weights)}

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


def consistency_weight(config: MeanTeacher | CPS | UniMatch, iteration: int) -> float:
    """`method.weight`, ramped up from the end of the burn-in on; 0 before."""
    since = iteration - config.burn_in_iterations
    return 0.0 if since < 0 else config.weight * rampup(since, config.rampup_iterations)


def hard_label(network: SegmentationNetwork, feature: Tensor, valid: Tensor, *, confidence: Confidence = ()) -> Tensor:
    """A decoder feature of N images -> their (N,H,W) uint8 pseudo-label; 255 where there is no image.

    A few images at a time: full-resolution logits of a batch would only be thrown away.

    Args:
        confidence: 255 also where the label has less probability.
    """
    logits = network.classifier(feature)
    labels = []
    for part in chunks(logits, valid.shape):
        one, where = network.enlarge(logits[part], valid.shape[1:]), valid[part]
        if confidence:
            where = where & is_sure(*one.softmax(dim=1).max(dim=1), confidence, valid=where)
        labels.append(torch.where(where, one.argmax(dim=1), IGNORE_INDEX).byte())
    return torch.cat(labels)


def mixed_label(
    network: SegmentationNetwork,
    batch: Batch,
    masks: Sequence[Tensor],
    *,
    confidence: Confidence = (),
    once: bool = False,
    feature: Tensor | None = None,
) -> list[Tensor]:
    """(N,H,W) uint8 pseudo-labels of the pair, mixed with each mask: as mixing logits before the argmax.

    Args:
        once: the network's running statistics take in each image once, as the first of its pair.
        feature: of the pair's first images, where the network has seen them already.
    """
    first, second, _ = batch.pair()
    feature = network.feature(see(network, first)) if feature is None else feature
    own = hard_label(network, feature, first.valid, confidence=confidence)
    if batch.second is None:
        partner = neighbours(own)
    else:
        with unrecorded(network) if once else nullcontext():
            feature = network.feature(see(network, second))
        partner = hard_label(network, feature, second.valid, confidence=confidence)
    return [mix(own, partner, mask) for mask in masks]


@contextmanager
def unrecorded(network: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are: they have each image once, as the first of its pair."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    yield
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def thresholds(config: MeanTeacher | CPS | UniMatch | MGD, names: Iterable[str], classes: int) -> dict[str, Confidence]:
    """What the pseudo-labels of each of the networks that label are held against; an objective keeps it as a module."""
    if not config.confidence_ema:
        return dict.fromkeys(names, config.confidence)
    made = {name: AdaptiveThresholds(config.confidence, classes, config.confidence_ema) for name in names}
    return nn.ModuleDict(made)  # type: ignore[return-value]


def is_sure(probability: Tensor, label: Tensor, confidence: Confidence, *, valid: Tensor | None = None) -> Tensor:
    """(N,H,W) of labels and their probabilities -> bool: these are not below the class's threshold.

    Args:
        confidence: none: everywhere.
        valid: (N,H,W) bool, what thresholds that follow a run take note of; these need it.
    """
    if isinstance(confidence, AdaptiveThresholds):
        assert valid is not None
        return confidence.sure(probability, label, valid)
    threshold: Tensor | float = confidence[0] if confidence else 0.0
    if len(confidence) > 1:
        # Class by class, since a tensor of thresholds would have to be sent to the device.
        threshold = torch.zeros_like(probability)
        for index, value in enumerate(confidence):
            threshold = torch.where(label == index, value, threshold)
    return probability >= threshold
