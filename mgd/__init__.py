"""Multi-granularity distillation: lightweight semantic segmentation from few labels (Qin et al., ECCV 2022)."""

import importlib
from typing import TYPE_CHECKING, Any

from mgd.errors import UserError
from mgd.version import __version__

if TYPE_CHECKING:
    from mgd.deploy.predict import predict
    from mgd.models import build_model
    from mgd.student import load_student

__all__ = ["UserError", "__version__", "build_model", "load_student", "predict"]

# Imported when they are asked for: `mgd verify` runs where there is no PyTorch.
_LATER = {"build_model": "mgd.models", "load_student": "mgd.student", "predict": "mgd.deploy.predict"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module 'mgd' has no attribute {name!r}")
