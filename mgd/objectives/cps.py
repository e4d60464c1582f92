"""Cross pseudo supervision with CutMix (Chen et al., CVPR 2021): how the teachers are trained."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mgd.config import CPS
from mgd.data.cutmix import mix
from mgd.data.loaders import Batch
from mgd.metrics import IGNORE_INDEX
from mgd.models.deeplab import DeepLabV3Plus
from mgd.objectives.base import Objective, Terms, hard_label, rampup, supervised_count, supervised_loss


class CPSObjective(Objective):
    """Two copies teach each other: L = sup(A) + sup(B) + w (CE(A(mix), ps_B) + CE(B(mix), ps_A)).

    `student` is copy A, the network that the run is for; `peer` is copy B, with another initialisation. Pseudo-labels
    come from the copies in train mode, as in the original.
    """

    def __init__(self, student: DeepLabV3Plus, peer: DeepLabV3Plus, config: CPS) -> None:
        super().__init__()
        self.student, self.peer, self.config = student, peer, config

    def parts(self, batch: Batch) -> Iterator[Terms]:
        labeled, u0, u1, mask = batch.labeled, batch.first, batch.second, batch.mask
        assert labeled.label is not None and u0 is not None and u1 is not None and mask is not None  # noqa: PT018

        def loss(network: DeepLabV3Plus, image: Tensor, label: Tensor) -> Tensor:
            return supervised_loss(network(image), label, self.config.criterion)

        yield {"supervised": loss(self.student, labeled.image, labeled.label)}
        yield {"supervised": loss(self.peer, labeled.image, labeled.label)}
        since = batch.iteration - self.config.burn_in_iterations
        if since < 0:
            return
        weight = self.config.weight * rampup(since, self.config.rampup_iterations)
        mixed = mix(u0.image, u1.image, mask)
        label_of_student, label_of_peer = self._pseudo_label(self.student, batch), self._pseudo_label(self.peer, batch)
        yield {"cps": weight * loss(self.student, mixed, label_of_peer)}
        yield {"cps": weight * loss(self.peer, mixed, label_of_student)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        criterion, u0, u1, mask = self.config.criterion, batch.first, batch.second, batch.mask
        assert batch.labeled.label is not None and u0 is not None and u1 is not None and mask is not None  # noqa: PT018
        seen = torch.where(mix(u0.valid, u1.valid, mask), 0, IGNORE_INDEX)  # a pseudo-label is valid where an image is
        return {
            "supervised": supervised_count(batch.labeled.label, criterion),
            "cps": supervised_count(seen, criterion),
        }

    @staticmethod
    @torch.no_grad()
    def _pseudo_label(network: DeepLabV3Plus, batch: Batch) -> Tensor:
        """(N,H,W): the mask is binary, so mixing labels is the same as mixing logits before the argmax."""
        u0, u1, mask = batch.first, batch.second, batch.mask
        assert u0 is not None and u1 is not None and mask is not None  # noqa: PT018
        return mix(hard_label(network(u0.image), u0.valid), hard_label(network(u1.image), u1.valid), mask)
