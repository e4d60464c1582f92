"""Cross pseudo supervision with CutMix (Chen et al., CVPR 2021): how the teachers are trained."""

from functools import cache, partial

import torch
from torch import Tensor

from mgd.config import CPS
from mgd.data.cutmix import mix
from mgd.data.loaders import Batch, neighbours
from mgd.metrics import IGNORE_INDEX
from mgd.models.deeplab import DeepLabV3Plus
from mgd.objectives.base import (
    Objective,
    Pass,
    Terms,
    criterion_loss,
    hard_label,
    rampup,
    see,
    supervised_count,
    supervised_pass,
)


class CPSObjective(Objective):
    """Two copies teach each other: L = sup(A) + sup(B) + w (CE(A(mix), ps_B) + CE(B(mix), ps_A)).

    `student` is copy A, the network that the run is for; `peer` is copy B, with another initialisation. Pseudo-labels
    come from the copies in train mode, as in the original.
    """

    def __init__(self, student: DeepLabV3Plus, peer: DeepLabV3Plus, config: CPS) -> None:
        super().__init__()
        self.student, self.peer, self.config = student, peer, config

    def passes(self, batch: Batch) -> list[Pass]:
        criterion = self.config.criterion
        labeled = [supervised_pass(network, batch.labeled, criterion) for network in (self.student, self.peer)]
        since = batch.iteration - self.config.burn_in_iterations
        return labeled if since < 0 else labeled + self._crossed(batch, since)

    def _crossed(self, batch: Batch, since: int) -> list[Pass]:
        """Each copy on the mixed images, with the other's pseudo-labels; `since`: iterations since the burn-in."""
        mixed, criterion = batch.mixed(), self.config.criterion
        weight = self.config.weight * rampup(since, self.config.rampup_iterations)
        # Both before either learns from the other's: a forward in train mode changes running statistics.
        labels = cache(lambda: (self._pseudo_label(self.peer, batch), self._pseudo_label(self.student, batch)))

        def terms(network: DeepLabV3Plus, teacher: int) -> Terms:
            return {"cps": weight * criterion_loss(network, mixed, labels()[teacher], criterion)}

        # A pseudo-label is valid where an image is.
        counts = {"cps": supervised_count(torch.where(mixed.valid, 0, IGNORE_INDEX), criterion)}
        return [Pass(counts, partial(terms, network, i)) for i, network in enumerate((self.student, self.peer))]

    @staticmethod
    @torch.no_grad()
    def _pseudo_label(network: DeepLabV3Plus, batch: Batch) -> Tensor:
        """(N,H,W): the mask is binary, so mixing labels is the same as mixing logits before the argmax."""
        first, second, mask = batch.pair()
        own = hard_label(network, network.feature(see(network, first)), first.valid)
        if batch.second is None:
            return mix(own, neighbours(own), mask)
        return mix(own, hard_label(network, network.feature(see(network, second)), second.valid), mask)
