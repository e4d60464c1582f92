"""Packages that only some commands need: import one, or say in a sentence how to install it."""

import importlib
from typing import Any

from mgd.errors import UserError


def need(module: str, *, extra: str = "") -> Any:
    """Import an optional module.

    Args:
        extra: of this project, which brings it; "": its own package does.

    Raises:
        UserError: it is not installed; with the pip command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        what = f"'mgd[{extra}]'" if extra else name
        raise UserError(f"{name} is not installed ({error}): pip install {what}") from error
