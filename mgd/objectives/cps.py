"""Cross pseudo supervision with CutMix (Chen et al., CVPR 2021): how the teachers are trained."""

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from mgd.config import CPS
from mgd.data.batch import Batch
from mgd.metrics import IGNORE_INDEX
from mgd.models.network import SegmentationNetwork
from mgd.objectives.average import AverageTeacher
from mgd.objectives.base import (
    Objective,
    Pass,
    Terms,
    criterion_loss,
    mixed_label,
    rampup,
    supervised_count,
    supervised_pass,
    thresholds,
)

COPIES = ("student", "peer")


class CPSObjective(Objective):
    """Two copies teach each other: L = sup(A) + sup(B) + w (CE(A(mix), ps_B) + CE(B(mix), ps_A)).

    `student` is copy A, the network that the run is for; `peer` is copy B, with another initialisation. Pseudo-labels
    come from the copies in train mode, as in the original; with `ema` from the average of each copy's weights.
    """

    config: CPS

    def __init__(self, student: SegmentationNetwork, peer: SegmentationNetwork, config: CPS) -> None:
        super().__init__()
        self.student, self.peer, self.config = student, peer, config
        self.averages = nn.ModuleList(
            [AverageTeacher(one, config.ema) for one in (student, peer)] if config.ema else []
        )
        self.confidence = thresholds(config, COPIES, student.num_classes)

    def passes(self, batch: Batch) -> list[Pass]:
        criterion = self.config.criterion
        how = (batch.labeled, criterion, self.class_weights)
        labeled = [supervised_pass(network, *how) for network in (self.student, self.peer)]
        since = batch.iteration - self.config.burn_in_iterations
        return labeled if since < 0 else labeled + self._crossed(batch, since)

    def _crossed(self, batch: Batch, since: int) -> list[Pass]:
        """Each copy on the mixed images, with the other's pseudo-labels; `since`: iterations since the burn-in."""
        mixed, criterion = batch.hardened(), self.config.criterion
        weight = self.config.weight * rampup(since, self.config.rampup_iterations)
        # Both before either learns from the other's: a forward in train mode changes running statistics.
        labels = cache(lambda: [self._pseudo_label(name, batch) for name in ("peer", "student")])
        # A pseudo-label is valid where an image is; one that is not sure enough counts as 0.
        counted = torch.where(mixed.valid, 0, IGNORE_INDEX)

        def terms(network: SegmentationNetwork, teacher: int) -> Terms:
            loss = criterion_loss(network, mixed, labels()[teacher], criterion, counted=counted)
            return {"cps": weight * loss}

        counts = {"cps": supervised_count(counted, criterion)}
        return [Pass(counts, partial(terms, network, i)) for i, network in enumerate((self.student, self.peer))]

    def after_update(self, iteration: int) -> None:
        for average, network in zip(self.averages, (self.student, self.peer), strict=False):
            average.follow(network, iteration)  # type: ignore[operator]

    @torch.no_grad()
    def _pseudo_label(self, name: str, batch: Batch) -> Tensor:
        """What "student" or "peer", or the average of its weights, says of the mixed images."""
        copies = [average.module for average in self.averages] or [self.student, self.peer]
        network: Any = dict(zip(COPIES, copies, strict=True))[name]
        return mixed_label(network, batch, [batch.pair()[2]], confidence=self.confidence[name], once=True)[0]
