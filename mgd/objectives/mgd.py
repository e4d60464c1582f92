"""Multi-granularity distillation (Qin et al., ECCV 2022): how a student is trained from two frozen teachers."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from mgd.config import MGD
from mgd.data.cutmix import mix
from mgd.data.loaders import Batch, Views
from mgd.losses import image_level_loss, pixel_level_loss, region_level_loss
from mgd.models.deeplab import DeepLabV3Plus
from mgd.objectives.base import Pass, Terms, hard_label, rampup, see, supervised_count, supervised_loss
from mgd.objectives.taught import TaughtObjective, Teachers


class MGDObjective(TaughtObjective):
    """L = supervised + pixel + lambda_image * image + lambda_region * region.

    `teacher_norm="batch"` puts the teachers in train mode, as in the official code.
    """

    def __init__(self, student: DeepLabV3Plus, teachers: Teachers, config: MGD) -> None:
        super().__init__(student, teachers, drifts=config.teacher_norm == "batch")
        self.config = config

    def passes(self, batch: Batch) -> list[Pass]:
        """On labelled images, and on mixed ones where a weight asks for a term on them."""
        config, label, mixed = self.config, batch.labeled.label, batch.mixed()
        assert label is not None
        labeled = {"supervised": supervised_count(label, config.criterion), "pixel_labeled": batch.labeled.valid.sum()}
        images = torch.full((), len(label), device=label.device)
        unlabeled = {"pixel_unlabeled": mixed.valid.sum(), "image": images, "region": images}
        passes = [Pass(labeled, partial(self._labeled_terms, batch))]
        if config.pixel_unlabeled or any(self._compares(name) for name in self.teachers):
            passes.append(Pass(unlabeled, partial(self._unlabeled_terms, batch, mixed)))
        return passes

    def _compares(self, teacher: str) -> float:
        """The weight of the term for which a teacher sees the mixed images; 0: it does not."""
        return {"deep": self.config.lambda_image, "wide": self.config.lambda_region}[teacher]

    def _labeled_terms(self, batch: Batch) -> Terms:
        labeled, config = batch.labeled, self.config
        assert labeled.label is not None
        logits = self.student(see(self.student, labeled))
        terms = {"supervised": supervised_loss(logits, labeled.label, config.criterion)}
        if config.pixel_labeled:
            labels = self._labels(labeled)
            terms["pixel_labeled"] = config.pixel_labeled * self._pixel_term(logits, labels)
        return terms

    def _unlabeled_terms(self, batch: Batch, mixed: Views) -> Terms:
        """The terms on CutMix images, without those whose weight is 0."""
        config, size = self.config, mixed.image.shape[-2:]
        feature = self.student.feature(see(self.student, mixed))
        logits = self.student.logits(feature, size)
        labels, seen = self._teach(batch, mixed)
        terms = {}
        if labels:
            weight = config.pixel_unlabeled * rampup(batch.iteration, config.rampup_iterations)
            terms["pixel_unlabeled"] = weight * self._pixel_term(logits, labels)
        if "deep" in seen:
            target = self.teachers["deep"].logits(seen["deep"], size)
            terms["image"] = config.lambda_image * image_level_loss(logits, target, valid=mixed.valid)
        if "wide" in seen:
            region = region_level_loss(feature, seen["wide"], grid=config.region_grid, valid=mixed.valid)
            terms["region"] = config.lambda_region * region
        return terms

    @torch.no_grad()
    def _teach(self, batch: Batch, mixed: Views) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Each teacher's pseudo-labels of the mixed images, and its features of them, as far as a weight asks for them.

        A teacher sees the unmixed and the mixed images in one pass, which a small batch makes faster: in eval mode an
        image's features do not depend on the others. With batch statistics they do, and it sees them one by one.
        """
        first, second, mask = batch.pair()
        labels, seen = {}, {}
        for name, teacher in self.teachers.items():
            views = [first, second] if self.config.pixel_unlabeled else []
            views += [mixed] if self._compares(name) else []
            images = [see(teacher, one) for one in views]
            if teacher.training:
                features = [teacher.feature(image) for image in images]
            else:
                features = list(teacher.feature(torch.cat(images)).split(len(mask))) if images else []
            if self._compares(name):
                seen[name] = features.pop()
            if features:
                own, partner = (
                    hard_label(teacher.logits(feature, one.image.shape[-2:]), one.valid)
                    for feature, one in zip(features, (first, second), strict=True)
                )
                # The mask is binary, so mixing the labels is the same as mixing the logits before the argmax.
                labels[name] = mix(own, partner, mask)
        return labels, seen

    @staticmethod
    def _pixel_term(logits: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Sum over the teachers of the consistency with their pseudo-labels."""
        return torch.stack([pixel_level_loss(logits, label) for label in labels.values()]).sum()

    @torch.no_grad()
    def _labels(self, views: Views) -> dict[str, Tensor]:
        """Each teacher's hard pseudo-labels, 255 in the padding."""
        return {name: hard_label(teacher(see(teacher, views)), views.valid) for name, teacher in self.teachers.items()}
