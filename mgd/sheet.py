"""A contact sheet: training samples exactly as the networks get them, for a person to look at."""

import numpy as np
import torch
from torch import Tensor

from mgd.config import Experiment
from mgd.data.batch import Views, to_device
from mgd.data.classes import Classes
from mgd.data.datasets import Splits
from mgd.data.loaders import collate
from mgd.data.samples import TrainingSamples
from mgd.draw import draw_sheet, overlay, panel
from mgd.metrics import IGNORE_INDEX

Panels = list[np.ndarray]  # one for each row
LABELED = ("labelled photo", "labels; hatched: ignored", "both")
UNLABELED = ("unlabelled u0", "unlabelled u1", "CutMix mask", "mixed")


def contact_sheet(config: Experiment, splits: Splits, *, rows: int = 6) -> np.ndarray:
    """Draw the first samples of a run: RGB uint8; pixels that no loss looks at are hatched.

    Raises:
        UserError: as the loader does.
    """
    samples = TrainingSamples(splits, config)
    batch = to_device(collate([samples[position] for position in range(rows)]), torch.device("cpu"), 0)
    columns = _labeled(batch.labeled, splits.classes)
    captions = [*LABELED]
    if config.data.label_map:
        captions[1] = f"labels, {','.join(config.data.label_map)}"
    if batch.mask is not None:
        columns += _unlabeled(*batch.pair(), batch.mixed())
        captions += UNLABELED
    texts = [", ".join(samples.names(i)) for i in range(rows)]
    return draw_sheet([*zip(*columns, strict=True)], captions, splits.classes, texts=texts)


def _labeled(views: Views, classes: Classes) -> list[Panels]:
    assert views.label is not None
    label, photos = views.label.numpy(), _photos(views.image)
    ignored = label == IGNORE_INDEX
    plain = [panel(classes.palette()[one], where) for one, where in zip(label, ignored, strict=True)]
    both = [
        panel(overlay(photo, one, classes), where) for photo, one, where in zip(photos, label, ignored, strict=True)
    ]
    return [_panels(views), plain, both]


def _unlabeled(first: Views, second: Views, mask: Tensor, mixed: Views) -> list[Panels]:
    stencils = mask[:, 0, ..., None].expand(-1, -1, -1, 3).byte().numpy() * 255
    return [_panels(first), _panels(second), [panel(one) for one in stencils], _panels(mixed)]


def _panels(views: Views) -> Panels:
    return [panel(photo, ~valid) for photo, valid in zip(_photos(views.image), views.valid.numpy(), strict=True)]


def _photos(images: Tensor) -> np.ndarray:
    """(N,3,H,W) -> (N,H,W,3) uint8."""
    return images.permute(0, 2, 3, 1).numpy()
