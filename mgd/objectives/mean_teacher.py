"""Mean teacher (Tarvainen and Valpola, NeurIPS 2017) with CutMix (French et al., BMVC 2020)."""

import torch
from torch import Tensor

from mgd.config import MeanTeacher
from mgd.data.batch import Batch, Views, neighbours
from mgd.data.cutmix import mix
from mgd.distillation_losses import squared_probability_loss
from mgd.models.network import SegmentationNetwork
from mgd.objectives.average import AverageTeacher
from mgd.objectives.base import (
    Objective,
    Pass,
    Terms,
    consistency_weight,
    is_sure,
    see,
    supervised_pass,
    thresholds,
)


class MeanTeacherObjective(Objective):
    """L = sup(S) + w * ||softmax(S(mix)) - mix(softmax(T(u0)), softmax(T(u1)))||^2, T the average of S's weights.

    Pixels at which the teacher's greatest probability is below `confidence` add 0 to the mean. French et al. weigh
    the whole batch with the share of such pixels instead; by pixel the mean is the same however a batch is divided.
    """

    config: MeanTeacher

    def __init__(self, student: SegmentationNetwork, config: MeanTeacher) -> None:
        super().__init__()
        self.student, self.config = student, config
        self.average = AverageTeacher(student, config.decay)
        self.confidence = thresholds(config, ["teacher"], student.num_classes)

    @property
    def labellers(self) -> dict[str, SegmentationNetwork]:
        return {"teacher": self.average.module}

    def weights(self, iteration: int) -> dict[str, float]:
        return {"consistency": consistency_weight(self.config, iteration)}

    def passes(self, batch: Batch) -> list[Pass]:
        labeled = supervised_pass(self.student, batch.labeled, self.config.criterion, self.class_weights)
        if self.burns_in(batch.iteration):
            return [labeled]
        mixed = batch.mixed()
        return [labeled, Pass({"consistency": mixed.valid.sum()}, lambda: self._consistency(batch, mixed))]

    def after_update(self, iteration: int) -> None:
        self.average.follow(self.student, iteration)

    def _consistency(self, batch: Batch, mixed: Views) -> Terms:
        logits, target = self.student(see(self.student, batch.hardened(mixed))), self._target(batch)
        counted = mixed.valid & is_sure(*target.max(dim=1), self.confidence["teacher"], valid=mixed.valid)
        loss = squared_probability_loss(logits, target, valid=mixed.valid, counted=counted)
        return self.weighted({"consistency": loss}, batch.iteration)

    @torch.no_grad()
    def _target(self, batch: Batch) -> Tensor:
        """(N,K,H,W) float32: the teacher's probabilities of the unmixed images, mixed."""
        first, second, mask = batch.pair()
        own = self.average.logits(first).float().softmax(dim=1)
        if batch.second is None:
            return mix(own, neighbours(own), mask)
        return mix(own, self.average.logits(second).float().softmax(dim=1), mask)
