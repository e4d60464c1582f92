"""Multi-granularity distillation: lightweight semantic segmentation from few labels (Qin et al., ECCV 2022)."""

from mgd.errors import UserError
from mgd.models import build_model
from mgd.student import load_student
from mgd.version import __version__

__all__ = ["UserError", "__version__", "build_model", "load_student"]
