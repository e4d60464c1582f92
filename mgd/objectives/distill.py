"""Plain distillation from frozen teachers: pixel by pixel (KD) and channel by channel (CWD)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgd.config import CWD, KD, is_offline
from mgd.data.batch import Batch, Views
from mgd.distillation_losses import channel_wise_loss, pixel_kl_loss
from mgd.models.folding import for_inference
from mgd.models.network import SegmentationNetwork
from mgd.objectives.base import Objective, Pass, Terms, pixel_losses, see, supervised_count, supervised_loss
from mgd.objectives.teaching import Teachers, stored_cells, stored_logits


class DistillObjective(Objective):
    """L = supervised + w_labeled * D(x) + w_unlabeled * D(mix): what D is, a subclass says.

    Student and teachers see the same images (but data.strong changes the student's alone); D is the mean over the
    teachers. These are frozen, with batch norm folded in place, outside `train()`, `parameters()`, `state_dict()` and
    DDP.
    """

    config: KD | CWD

    def __init__(self, student: SegmentationNetwork, teachers: Teachers) -> None:
        super().__init__()
        self.student = student
        self.teachers = {
            name: for_inference(net, in_place=True).requires_grad_(False) for name, net in teachers.items()
        }

    def _apply(self, *args: Any, **kwargs: Any) -> "DistillObjective":
        """`to()`, `cuda()` and the like, teachers included."""
        super()._apply(*args, **kwargs)
        for teacher in self.teachers.values():
            teacher._apply(*args, **kwargs)
        return self

    def weights(self, iteration: int) -> dict[str, float]:
        parts = {"labeled": self.config.labeled, "unlabeled": self.config.unlabeled}
        return {f"{name}_{part}": own * share for part, share in parts.items() for name, own in self.kinds().items()}

    def passes(self, batch: Batch) -> list[Pass]:
        """On labelled images, and on mixed ones where their weight is not 0."""
        config, label, mixed = self.config, batch.labeled.label, batch.mixed()
        assert label is not None
        counts = {"supervised": supervised_count(label, config.criterion)}
        counts |= {f"{name}_labeled": count for name, count in self.counts(batch.labeled).items()}
        passes = [Pass(counts, partial(self._labeled_terms, batch))]
        if self._compares(config.unlabeled):
            counts = {f"{name}_unlabeled": count for name, count in self.counts(mixed).items()}
            passes.append(Pass(counts, partial(self._unlabeled_terms, batch, mixed)))
        return passes

    def kinds(self) -> dict[str, float]:
        """The terms of D and their weights in it."""
        raise NotImplementedError

    def counts(self, views: Views) -> dict[str, Tensor]:
        """What the mean of each term of D runs over."""
        raise NotImplementedError

    def compare(self, feature: Tensor, views: Views, batch: Batch) -> Terms:
        """The terms of D, without their weights, for the student's decoder feature of a batch's images."""
        raise NotImplementedError

    def _compares(self, share: float) -> bool:
        """Whether a term of D on images of that weight has any itself."""
        return share > 0 and any(self.kinds().values())

    def _labeled_terms(self, batch: Batch) -> Terms:
        labeled = batch.labeled
        assert labeled.label is not None
        feature = self.student.feature(see(self.student, labeled))
        (losses,) = pixel_losses(self.student, self.student.classifier(feature), [labeled.label])
        weights = self.class_weights
        terms = {"supervised": supervised_loss(losses, labeled.label, self.config.criterion, weights=weights)}
        if self._compares(self.config.labeled):
            terms |= {f"{name}_labeled": term for name, term in self.compare(feature, labeled, batch).items()}
        return self.weighted(terms, batch.iteration)

    def _unlabeled_terms(self, batch: Batch, mixed: Views) -> Terms:
        feature = self.student.feature(see(self.student, batch.hardened(mixed)))
        terms = {f"{name}_unlabeled": term for name, term in self.compare(feature, mixed, batch).items()}
        return self.weighted(terms, batch.iteration)

    @torch.no_grad()
    def _teach(self, views: Views) -> dict[str, Tensor]:
        """Each teacher's decoder feature."""
        return {name: teacher.feature(see(teacher, views)) for name, teacher in self.teachers.items()}


class KDObjective(DistillObjective):
    """Knowledge distillation (Hinton et al., 2015), pixel by pixel: D = T^2 KL(teacher || student) of the logits."""

    def __init__(self, student: SegmentationNetwork, teachers: Teachers, config: KD) -> None:
        """`teachers`: none with method.teachers="offline", where their logits come with the batch."""
        super().__init__(student, teachers)
        self.config: KD = config

    def kinds(self) -> dict[str, float]:
        return {"kd": 1.0}

    def counts(self, views: Views) -> dict[str, Tensor]:
        return {"kd": views.valid.sum()}

    def compare(self, feature: Tensor, views: Views, batch: Batch) -> Terms:
        temperature = self.config.temperature
        logits, targets = self.student.logits(feature, views.image.shape[-2:]), self._targets(views, batch)
        losses = [pixel_kl_loss(logits, target, temperature=temperature, valid=views.valid) for target in targets]
        return {"kd": torch.stack(losses).mean()}

    @torch.no_grad()
    def _targets(self, views: Views, batch: Batch) -> list[Tensor]:
        """(N,K,H,W) logits of each teacher."""
        if is_offline(self.config):
            return [*stored_logits(batch, views, self.config.teach.logits_stride).values()]
        size = views.image.shape[-2:]
        return [self.teachers[name].logits(feature, size) for name, feature in self._teach(views).items()]


class CWDObjective(DistillObjective):
    """Channel-wise distillation (Shu et al., ICCV 2021): D = w_logits * CW(logits) + w_feature * CW(feature).

    Both at the decoder's size. Where a teacher's feature has other channels than the student's, a 1x1 convolution
    brings the student's to them, as in the paper: it is trained with the student and is no part of its checkpoint.
    """

    def __init__(self, student: SegmentationNetwork, teachers: Teachers | Mapping[str, int], config: CWD) -> None:
        """`teachers`: with method.teachers="offline" the channels of their features, which come with the batch."""
        widths = {name: one if isinstance(one, int) else one.classifier.in_channels for name, one in teachers.items()}
        super().__init__(student, {name: one for name, one in teachers.items() if not isinstance(one, int)})
        self.config: CWD = config
        self.names = tuple(widths)
        self.projections = nn.ModuleDict()
        own = student.classifier.in_channels
        mixed = is_offline(config) and config.teach.projection > 0  # channels that are none of a network's
        for name, width in widths.items():
            if config.weight_feature and (config.labeled or config.unlabeled) and (width != own or mixed):
                self.projections[name] = nn.Conv2d(own, width, 1)

    def kinds(self) -> dict[str, float]:
        return {"logits": self.config.weight_logits, "feature": self.config.weight_feature}

    def counts(self, views: Views) -> dict[str, Tensor]:
        images = torch.full((), len(views.image), device=views.image.device)
        return {name: images for name, weight in self.kinds().items() if weight}

    def compare(self, feature: Tensor, views: Views, batch: Batch) -> Terms:
        feature = self.student.over_image(feature, views.valid.shape[-2:])
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {what: [] for what in self._compared}
        for name, targets in self._targets(views, batch).items():
            for what, target in targets.items():
                own = self.student.classifier(feature) if what == "logits" else self._projected(feature, name)
                pairs[what].append((own, _resized(target, feature.shape[-2:])))
        return {
            what: torch.stack([self._channel_wise(*pair, views) for pair in of_teachers]).mean()
            for what, of_teachers in pairs.items()
        }

    @torch.no_grad()
    def _targets(self, views: Views, batch: Batch) -> dict[str, dict[str, Tensor]]:
        """Teacher -> what is compared of its answers."""
        if is_offline(self.config):
            strides = {"logits": self.config.teach.logits_stride, "feature": self.config.feature_stride()}
            return {
                name: {what: stored_cells(batch, views, f"{name}.{what}", strides[what]) for what in self._compared}
                for name in self.names
            }
        targets = {}
        for name, feature in self._teach(views).items():
            own = self.teachers[name].over_image(feature, views.valid.shape[-2:])
            targets[name] = {
                what: self.teachers[name].classifier(own) if what == "logits" else own for what in self._compared
            }
        return targets

    @property
    def _compared(self) -> list[str]:
        return [what for what, weight in self.kinds().items() if weight]

    def _projected(self, feature: Tensor, name: str) -> Tensor:
        return self.projections[name](feature) if name in self.projections else feature

    def _channel_wise(self, student: Tensor, teacher: Tensor, views: Views) -> Tensor:
        return channel_wise_loss(student, teacher, temperature=self.config.temperature, valid=views.valid)


def _resized(x: Tensor, size: torch.Size) -> Tensor:
    """A teacher's map in the student's size."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
