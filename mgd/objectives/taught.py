"""A student beside frozen teachers: what MGD and the distillation methods it is held against share."""

from collections.abc import Mapping
from typing import Any

from mgd.models.deeplab import DeepLabV3Plus
from mgd.objectives.base import Objective

Teachers = Mapping[str, DeepLabV3Plus]  # "deep" (T_D) and "wide" (T_W), either may be missing


class TaughtObjective(Objective):
    """An objective with frozen teachers.

    They are kept in a plain dict: outside `train()`, `parameters()`, `state_dict()` and DDP. In eval mode nothing in
    them changes.
    """

    def __init__(self, student: DeepLabV3Plus, teachers: Teachers, *, drifts: bool = False) -> None:
        """`drifts`: teachers in train mode, where predictions use batch statistics and the running ones drift."""
        super().__init__()
        self.student, self.teachers = student, dict(teachers)
        for teacher in self.teachers.values():
            teacher.requires_grad_(False).train(drifts)

    def _apply(self, *args: Any, **kwargs: Any) -> "TaughtObjective":
        """`to()`, `cuda()` and the like, teachers included."""
        super()._apply(*args, **kwargs)
        for teacher in self.teachers.values():
            teacher._apply(*args, **kwargs)
        return self
