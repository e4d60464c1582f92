"""Multi-granularity distillation: lightweight semantic segmentation from few labels (Qin et al., ECCV 2022)."""

from mgd.errors import UserError
from mgd.models import build_model
from mgd.student import load_student

__all__ = ["UserError", "build_model", "load_student"]
__version__ = "0.1.0"
