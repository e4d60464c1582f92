"""A contact sheet: training samples exactly as the networks get them, for a person to look at."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from mgd.config import Experiment
from mgd.data.cutmix import mix
from mgd.data.datasets import Splits
from mgd.data.loaders import TrainingSamples, Views, to_device
from mgd.data.normalise import MEAN, STD
from mgd.draw import draw_sheet, hatch, overlay
from mgd.metrics import IGNORE_INDEX

LABELED = ("labelled photo", "its labels")
UNLABELED = ("unlabelled u0", "unlabelled u1", "CutMix mask", "mixed")


def contact_sheet(config: Experiment, splits: Splits, *, rows: int = 6) -> np.ndarray:
    """Draw the first samples of a run: RGB uint8; pixels that no loss looks at are hatched.

    Raises:
        UserError: as the loader does.
    """
    samples = TrainingSamples(splits, config)
    batch = to_device(default_collate([samples[position] for position in range(rows)]), torch.device("cpu"), 0)
    label, first, second, mask = batch.labeled.label, batch.first, batch.second, batch.mask
    assert label is not None
    photos = _photos(batch.labeled.image)
    drawn = []
    for photo, one, valid in zip(photos, label.numpy(), batch.labeled.valid.numpy(), strict=True):
        drawn.append([hatch(photo, ~valid), hatch(overlay(photo, one, splits.classes), one == IGNORE_INDEX)])
    if first is None or second is None or mask is None:
        return draw_sheet(drawn, LABELED, splits.classes)
    mixed = Views(mix(first.image, second.image, mask), mix(first.valid, second.valid, mask))
    for i, row in enumerate(drawn):
        own = [hatch(_photos(v.image)[i], ~v.valid[i].numpy()) for v in (first, second, mixed)]
        stencil = np.repeat(mask[i, 0].numpy()[..., None], 3, axis=2).astype(np.uint8) * 255
        row += [own[0], own[1], stencil, own[2]]
    return draw_sheet(drawn, (*LABELED, *UNLABELED), splits.classes)


def _photos(images: Tensor) -> np.ndarray:
    """Undo the normalisation: (N,3,H,W) -> (N,H,W,3) uint8."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return ((images * std + mean) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
