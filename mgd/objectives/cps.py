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
    consistency_weight,
    criterion_loss,
    mixed_label,
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

    @property
    def labellers(self) -> dict[str, SegmentationNetwork]:
        return {"peer": self._labelling("peer")}

    def weights(self, iteration: int) -> dict[str, float]:
        return {"cps": consistency_weight(self.config, iteration)}

    def passes(self, batch: Batch) -> list[Pass]:
        criterion = self.config.criterion
        how = (batch.labeled, criterion, self.class_weights)
        labeled = [supervised_pass(network, *how) for network in (self.student, self.peer)]
        return labeled if self.burns_in(batch.iteration) else labeled + self._crossed(batch)

    def _crossed(self, batch: Batch) -> list[Pass]:
        """Each copy on the mixed images, with the other's pseudo-labels."""
        mixed, criterion = batch.mixed(), self.config.criterion
        seen = cache(partial(batch.hardened, mixed))
        # Both before either learns from the other's: a forward in train mode changes running statistics.
        labels = cache(lambda: [self._pseudo_label(name, batch) for name in ("peer", "student")])
        # A pseudo-label is valid where an image is; one that is not sure enough counts as 0.
        counted = torch.where(mixed.valid, 0, IGNORE_INDEX)

        def terms(network: SegmentationNetwork, teacher: int) -> Terms:
            loss = criterion_loss(network, seen(), labels()[teacher], criterion, counted=counted)
            return self.weighted({"cps": loss}, batch.iteration)

        counts = {"cps": supervised_count(counted, criterion)}
        return [Pass(counts, partial(terms, network, i)) for i, network in enumerate((self.student, self.peer))]

    def after_update(self, iteration: int) -> None:
        for average, network in zip(self.averages, (self.student, self.peer), strict=False):
            average.follow(network, iteration)  # type: ignore[operator]

    def _labelling(self, name: str) -> SegmentationNetwork:
        """The copy of that name, one of `COPIES`, or the average of its weights."""
        copies: Any = [average.module for average in self.averages] or [self.student, self.peer]
        return dict(zip(COPIES, copies, strict=True))[name]

    @torch.no_grad()
    def _pseudo_label(self, name: str, batch: Batch) -> Tensor:
        """What one of `COPIES` says of the mixed images."""
        network, masks, confidence = self._labelling(name), [batch.pair()[2]], self.confidence[name]
        return mixed_label(network, batch, masks, confidence=confidence, once=True)[0]
