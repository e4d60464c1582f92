"""Cross pseudo supervision with CutMix (Chen et al., CVPR 2021): how the teachers are trained."""

import torch
from torch import Tensor

from mgd.config import CPS
from mgd.data.cutmix import mix
from mgd.data.loaders import Batch
from mgd.models.deeplab import DeepLabV3Plus
from mgd.objectives.base import Objective, hard_label, rampup, supervised_loss


class CPSObjective(Objective):
    """Two copies teach each other: L = sup(A) + sup(B) + w (CE(A(mix), ps_B) + CE(B(mix), ps_A)).

    `student` is copy A, the network that the run is for; `peer` is copy B, with another initialisation. Pseudo-labels
    come from the copies in train mode, as in the original.
    """

    def __init__(self, student: DeepLabV3Plus, peer: DeepLabV3Plus, config: CPS) -> None:
        super().__init__()
        self.student, self.peer, self.config = student, peer, config

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        labeled, u0, u1, mask = batch.labeled, batch.first, batch.second, batch.mask
        assert labeled.label is not None and u0 is not None and u1 is not None and mask is not None  # noqa: PT018
        weight = self.config.weight * rampup(batch.iteration, self.config.rampup_iterations)
        mixed = mix(u0.image, u1.image, mask)
        with torch.no_grad():
            label_of_student, label_of_peer = (
                # The mask is binary, so mixing the labels is the same as mixing the logits before the argmax.
                mix(hard_label(network(u0.image), u0.valid), hard_label(network(u1.image), u1.valid), mask)
                for network in (self.student, self.peer)
            )

        def loss(network: DeepLabV3Plus, image: Tensor, label: Tensor) -> Tensor:
            return supervised_loss(network(image), label, self.config.criterion)

        return {
            "supervised": loss(self.student, labeled.image, labeled.label)
            + loss(self.peer, labeled.image, labeled.label),
            "cps": weight * (loss(self.student, mixed, label_of_peer) + loss(self.peer, mixed, label_of_student)),
        }
