"""Multi-granularity distillation (Qin et al., ECCV 2022): how a student is trained from two frozen teachers."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mgd.config import MGD
from mgd.data.cutmix import mix
from mgd.data.loaders import Batch, Views
from mgd.losses import image_level_loss, pixel_level_loss, region_level_loss
from mgd.models.deeplab import DeepLabV3Plus
from mgd.objectives.base import Objective, Terms, hard_label, rampup, supervised_count, supervised_loss

Teachers = Mapping[str, DeepLabV3Plus]  # "deep" (T_D) and "wide" (T_W), either may be missing


class MGDObjective(Objective):
    """L = supervised + pixel + lambda_image * image + lambda_region * region.

    The teachers are kept in a plain dict: they are outside `train()`, `parameters()`, `state_dict()` and DDP. In eval
    mode nothing in them changes; `teacher_norm="batch"` puts them in train mode, where predictions use batch
    statistics and the running ones drift, as in the official code.
    """

    def __init__(self, student: DeepLabV3Plus, teachers: Teachers, config: MGD) -> None:
        super().__init__()
        self.student, self.config = student, config
        self.teachers = dict(teachers)
        for teacher in self.teachers.values():
            teacher.requires_grad_(False).train(config.teacher_norm == "batch")

    def _apply(self, *args: Any, **kwargs: Any) -> "MGDObjective":
        """`to()`, `cuda()` and the like, teachers included."""
        super()._apply(*args, **kwargs)
        for teacher in self.teachers.values():
            teacher._apply(*args, **kwargs)
        return self

    def parts(self, batch: Batch) -> Iterator[Terms]:
        config = self.config
        yield self._labeled_terms(batch)
        image, region = (
            "deep" in self.teachers and config.lambda_image,
            "wide" in self.teachers and config.lambda_region,
        )
        if config.pixel_unlabeled or image or region:
            yield self._unlabeled_terms(batch)

    def _labeled_terms(self, batch: Batch) -> Terms:
        labeled, config = batch.labeled, self.config
        assert labeled.label is not None
        logits = self.student(labeled.image)
        terms = {"supervised": supervised_loss(logits, labeled.label, config.criterion)}
        if config.pixel_labeled:
            labels = self._labels(labeled)
            terms["pixel_labeled"] = config.pixel_labeled * self._pixel_term(logits, labels)
        return terms

    def _unlabeled_terms(self, batch: Batch) -> Terms:
        """The terms on CutMix images, without those whose weight is 0."""
        u0, u1, mask, config = batch.first, batch.second, batch.mask, self.config
        assert u0 is not None and u1 is not None and mask is not None  # noqa: PT018
        mixed = Views(mix(u0.image, u1.image, mask), mix(u0.valid, u1.valid, mask))
        size = mixed.image.shape[-2:]
        feature = self.student.feature(mixed.image)
        logits = self.student.logits(feature, size)
        labels, seen = self._teach(u0, u1, mixed, mask)
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
    def _teach(self, u0: Views, u1: Views, mixed: Views, mask: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Each teacher's pseudo-labels of the mixed images, and its features of them, as far as a weight asks for them.

        A teacher sees the unmixed and the mixed images in one pass, which a small batch makes faster: in eval mode an
        image's features do not depend on the others. With batch statistics they do, and it sees them one by one.
        """
        labels, seen = {}, {}
        sees_mixed = {"deep": self.config.lambda_image, "wide": self.config.lambda_region}
        for name, teacher in self.teachers.items():
            images = [u0.image, u1.image] if self.config.pixel_unlabeled else []
            images += [mixed.image] if sees_mixed[name] else []
            if teacher.training:
                features = [teacher.feature(image) for image in images]
            else:
                features = list(teacher.feature(torch.cat(images)).split(len(mask))) if images else []
            if sees_mixed[name]:
                seen[name] = features.pop()
            if features:
                first, second = (
                    hard_label(teacher.logits(feature, views.image.shape[-2:]), views.valid)
                    for feature, views in zip(features, (u0, u1), strict=True)
                )
                # The mask is binary, so mixing the labels is the same as mixing the logits before the argmax.
                labels[name] = mix(first, second, mask)
        return labels, seen

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        u0, u1, mask = batch.first, batch.second, batch.mask
        assert batch.labeled.label is not None and u0 is not None and u1 is not None and mask is not None  # noqa: PT018
        return {
            "supervised": supervised_count(batch.labeled.label, self.config.criterion),
            "pixel_labeled": batch.labeled.valid.sum(),
            "pixel_unlabeled": mix(u0.valid, u1.valid, mask).sum(),
        }

    @staticmethod
    def _pixel_term(logits: Tensor, labels: Mapping[str, Tensor]) -> Tensor:
        """Sum over the teachers of the consistency with their pseudo-labels."""
        return torch.stack([pixel_level_loss(logits, label) for label in labels.values()]).sum()

    @torch.no_grad()
    def _labels(self, views: Views) -> dict[str, Tensor]:
        """Each teacher's hard pseudo-labels, 255 in the padding."""
        return {name: hard_label(teacher(views.image), views.valid) for name, teacher in self.teachers.items()}
