"""Labels alone: the lower bound that every other method is held against."""

from collections.abc import Iterator

from torch import Tensor

from mgd.config import Supervised
from mgd.data.loaders import Batch
from mgd.models.deeplab import DeepLabV3Plus
from mgd.objectives.base import Objective, Terms, supervised_count, supervised_loss


class SupervisedObjective(Objective):
    """L = sup(S)."""

    def __init__(self, student: DeepLabV3Plus, config: Supervised) -> None:
        super().__init__()
        self.student, self.config = student, config

    def parts(self, batch: Batch) -> Iterator[Terms]:
        logits = self.student(batch.labeled.image)
        assert batch.labeled.label is not None
        yield {"supervised": supervised_loss(logits, batch.labeled.label, self.config.criterion)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.labeled.label is not None
        return {"supervised": supervised_count(batch.labeled.label, self.config.criterion)}
