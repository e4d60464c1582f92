"""A teacher whose weights are the running average of a network that learns (Tarvainen and Valpola, NeurIPS 2017)."""

import torch
from timm.utils import ModelEmaV3
from torch import Tensor

from mgd.data.batch import Views
from mgd.models.network import SegmentationNetwork
from mgd.objectives.base import see


class AverageTeacher(ModelEmaV3):
    """Average of a network's weights and running statistics: a_t = d a_(t-1) + (1 - d) w_t, t counted from 0.

    d = min(decay, 1 - 1/(t+1)), so that the random start is forgotten at once. The teacher is in eval mode for good,
    gets no gradient, and is part of the training state.
    """

    module: SegmentationNetwork

    def __init__(self, network: SegmentationNetwork, decay: float) -> None:
        super().__init__(network, decay=decay, use_warmup=True, warmup_power=1.0)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "AverageTeacher":
        super().train(False)
        return self

    def follow(self, network: SegmentationNetwork, iteration: int) -> None:
        """Take in a network's weights after the update of `iteration`, counted from 0: the first are taken whole."""
        self.update(network, step=iteration + 1)

    @torch.no_grad()
    def logits(self, views: Views) -> Tensor:
        """(N,K,H,W) of augmented images."""
        return self.module(see(self.module, views))
