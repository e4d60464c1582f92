"""The one road from a checkpoint file to a network that is ready to use."""

import logging
from pathlib import Path

import torch

from mgd.checkpoint import network_of, read, recognise
from mgd.errors import UserError
from mgd.models.deeplab import DeepLabV3Plus

log = logging.getLogger(__name__)


def load_student(path: str | Path, device: str | torch.device = "cpu", *, num_classes: int = 0) -> DeepLabV3Plus:
    """Load one of our files or an official one (a teacher is a student too).

    Args:
        path: the file. Its architecture is recognised from what it holds, never from its name.
        device: where the network goes.
        num_classes: the class count that the data set needs; 0 takes any.

    Returns:
        The network in eval mode: normalised images (N,3,H,W) -> logits (N,K,H,W). It has `.num_classes`, and
        `.classes` when known.

    Raises:
        UserError: missing, truncated, no checkpoint, code in it, unknown architecture, other class count.
    """
    found = recognise(read(path), path)
    if num_classes and found.arch["num_classes"] != num_classes:
        own = found.arch["num_classes"]
        raise UserError(f"{path} was trained for {own} classes, the data set has {num_classes}; use another checkpoint")
    if "training" in found.extra and found.progress and found.progress[0] < found.progress[1]:
        log.warning("%s is a run in the middle: iteration %d of %d", path, *found.progress)
    return network_of(found, path).to(device).eval()
