"""Labels alone: the lower bound that every other method is held against."""

from mgd.config import Supervised
from mgd.data.batch import Batch
from mgd.models.network import SegmentationNetwork
from mgd.objectives.base import Objective, Pass, supervised_pass


class SupervisedObjective(Objective):
    """L = sup(S)."""

    config: Supervised

    def __init__(self, student: SegmentationNetwork, config: Supervised) -> None:
        super().__init__()
        self.student, self.config = student, config

    def passes(self, batch: Batch) -> list[Pass]:
        return [supervised_pass(self.student, batch.labeled, self.config.criterion, self.class_weights)]
