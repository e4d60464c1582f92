"""Multi-granularity distillation (Qin et al., ECCV 2022): how a student is trained from two frozen teachers."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from mgd.config import MGD
from mgd.data.batch import Batch, Views
from mgd.distillation_losses import pixel_kl_loss
from mgd.losses import image_level_loss, region_level_loss
from mgd.models.network import SegmentationNetwork
from mgd.objectives.base import (
    Objective,
    Pass,
    Terms,
    fill,
    pixel_losses,
    rampup,
    see,
    supervised_count,
    supervised_loss,
    thresholds,
)
from mgd.objectives.teaching import Lesson, TeacherNetworks, Teachers, Teaching


class MGDObjective(Objective):
    """L = supervised + pixel + lambda_image * image + lambda_region * region.

    The teaching is kept in an attribute that is no module: it is outside `train()`, `parameters()`, `state_dict()` and
    DDP. It is asked once, before the student's first forward: the two never hold memory together, and teachers read
    their weights once.
    """

    config: MGD

    def __init__(self, student: SegmentationNetwork, teaching: Teaching | Teachers, config: MGD) -> None:
        """`teaching`: where a teacher's answers come from; the networks themselves, as "deep" and "wide", will do."""
        super().__init__()
        self.student, self.config = student, config
        self.teaching = teaching if isinstance(teaching, Teaching) else TeacherNetworks(teaching.items(), config)
        self.confidence = self.teaching.confidence = thresholds(config, self.teaching.names, student.num_classes)

    @property
    def teachers(self) -> Teachers:  # type: ignore[override]
        return self.teaching.networks

    def _apply(self, *args: Any, **kwargs: Any) -> "MGDObjective":
        """`to()`, `cuda()` and the like, teachers included."""
        super()._apply(*args, **kwargs)
        self.teaching.apply(lambda network: network._apply(*args, **kwargs))
        return self

    def weights(self, iteration: int) -> dict[str, float]:
        config = self.config
        return {
            "pixel_labeled": config.pixel_labeled,
            "pixel_unlabeled": config.pixel_unlabeled * rampup(iteration, config.rampup_iterations),
            "image": config.lambda_image,
            "region": config.lambda_region,
            "soft": config.soft,
        }

    def passes(self, batch: Batch) -> list[Pass]:
        """On labelled images, and on mixed ones where a weight asks for a term on them."""
        config, label, mixed = self.config, batch.labeled.label, batch.mixed()
        assert label is not None
        labeled = {"supervised": supervised_count(label, config.criterion), "pixel_labeled": batch.labeled.valid.sum()}
        images = torch.full((), len(label), device=label.device)
        unlabeled = {"pixel_unlabeled": mixed.valid.sum(), "image": images, "region": images}
        if config.soft:
            unlabeled["soft"] = mixed.valid.sum()
        lesson = cache(partial(self.teaching.lesson, batch, mixed))
        passes = [Pass(labeled, partial(self._labeled_terms, batch, lesson))]
        if self.teaching.sees_mixed:
            passes.append(Pass(unlabeled, partial(self._unlabeled_terms, batch, mixed, lesson)))
        return passes

    def _labeled_terms(self, batch: Batch, lesson: Callable[[], Lesson]) -> Terms:
        labeled, config = batch.labeled, self.config
        assert labeled.label is not None
        labels = lesson().labeled if config.pixel_labeled else {}
        logits = self.student.classifier(self.student.feature(see(self.student, labeled)))
        own, *others = pixel_losses(self.student, logits, [labeled.label, *labels.values()])
        weights = self.class_weights
        terms = {"supervised": supervised_loss(own, labeled.label, config.criterion, weights=weights)}
        if labels:
            terms["pixel_labeled"] = _pixel_term(others, labeled.valid)
        return self.weighted(terms, batch.iteration)

    def _unlabeled_terms(self, batch: Batch, mixed: Views, lesson: Callable[[], Lesson]) -> Terms:
        """The terms on CutMix images, without those whose weight is 0."""
        _, labels, pooled, target, soft = lesson()
        feature = self.student.feature(see(self.student, batch.hardened(mixed)))
        logits = self.student.classifier(feature)
        terms = {}
        if labels:
            losses = pixel_losses(self.student, logits, [*labels.values()])
            terms["pixel_unlabeled"] = _pixel_term(losses, mixed.valid)
        if pooled is not None:
            valid = fill(self.student, mixed.valid, 0)
            terms["image"] = image_level_loss(logits, pooled, valid=valid)
        if target is not None:
            own = self.student.over_image(feature, mixed.valid.shape[-2:])
            terms["region"] = region_level_loss(own, target, grid=self.config.region_grid, valid=mixed.valid)
        if soft:
            large = self.student.logits(feature, mixed.image.shape[-2:])
            divergences = [pixel_kl_loss(large, target, valid=mixed.valid) for target in soft.values()]
            terms["soft"] = torch.stack(divergences).mean()
        return self.weighted(terms, batch.iteration)


def _pixel_term(losses: Sequence[Tensor], valid: Tensor) -> Tensor:
    """Sum over the teachers of the consistency with their pseudo-labels (paper section 3.4).

    The mean over the valid pixels; those whose pseudo-label is left out, not being sure enough, count as 0.
    """
    count = valid.sum().clamp(min=1)
    return torch.stack([loss.sum() / count for loss in losses]).sum()
