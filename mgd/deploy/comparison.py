"""A file against the network that it was made from, on real photos: agreement, differences of logits, mIoU of both."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mgd.config import Data
from mgd.data.classes import Classes
from mgd.data.datasets import load_pair, open_val
from mgd.data.folders import IMAGES, LABELS, pairs_in, photos_in
from mgd.data.images import load_image
from mgd.data.items import Item
from mgd.data.transforms import resize
from mgd.deploy.runtime import Runner
from mgd.deploy.source import Source
from mgd.errors import UserError, first_few
from mgd.metrics import confusion_matrix, mean_iou

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Comparison:
    """Shares are 0..1; None: not known (no labels, or no logits).

    Attributes:
        agreement: of pixels that get the same class from both.
        logit_difference: the largest.
        miou, miou_pytorch: against labels, as shipped: the whole photo, stretched to a fixed size where there is one.
        excluded: classes that the two leave out, as in the run's own evaluation.
    """

    photos: int
    agreement: float
    logit_difference: float | None
    miou: float | None
    miou_pytorch: float | None
    excluded: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def choose_photos(source: Source, images: Path | None, *, count: int) -> list[Item]:
    """At most `count` photos, spread evenly: of a folder (with labels where it has images/ and labels/, or where the
    checkpoint's `data.label_pattern` finds them), else of the checkpoint's validation list.

    Raises:
        UserError: there is none.
    """
    if images is None:
        if source.config is None:
            raise UserError(f"{source.path} does not say what data it was trained on; name photos with --images")
        try:
            items: Sequence[Item] = open_val(source.config.data)
        except UserError as error:
            raise UserError(f"no photos to compare on ({error}); name some with --images") from error
    elif not images.is_dir():
        raise UserError(f"--images {images} is not a folder; name one with photos, or with {IMAGES}/ and {LABELS}/")
    else:
        pattern = source.label_pattern
        with_labels = pattern or ((images / IMAGES).is_dir() and (images / LABELS).is_dir())
        pairs, problems = pairs_in(images, pattern) if with_labels else ([], [])
        if problems and not pairs and not pattern:
            raise problems[0]
        items = [Item(image.stem, image, label) for image, label in pairs]
        items = items or [Item(file.stem, file, None) for file in photos_in(images, pattern)]
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))]


def readable(items: Sequence[Item], what: str) -> Iterator[tuple[Item, np.ndarray]]:
    """The items whose photos can be read, with these; the others are told at the end.

    Args:
        what: these photos in words.

    Raises:
        UserError: none can.
    """
    problems = []
    for item in items:
        try:
            photo = load_image(item.image)
        except UserError as error:
            problems.append(str(error))
        else:
            yield item, photo
    if len(problems) == len(items):
        raise UserError(f"none of {len(items)} {what} can be read: {first_few(problems)}")
    if problems:
        log.warning("%d of %d %s are left out: %s", len(problems), len(items), what, first_few(problems))


def compare_runners(
    file: Runner,
    reference: Runner,
    items: Sequence[Item],
    classes: Classes,
    *,
    data: Data | None = None,
    excluded: tuple[str, ...] = (),
) -> Comparison:
    """Run both on the items.

    Args:
        file: gives `label`, `logits` or both.
        reference: gives `logits`.
        data: says what label values mean; None: what they say.
        excluded: classes that mIoU leaves out.

    Raises:
        UserError: a photo or label cannot be read, or the scores are not finite.
    """
    count = len(classes)
    confusions = [torch.zeros(count, count, dtype=torch.int64) for _ in range(2)]
    same, pixels, difference, labelled = 0, 0, None, 0
    for item in items:
        image, truth = load_pair(item, data or Data(root=""), count)
        photo = file.fit(image)
        expected, found = reference.run(photo[:1])["logits"], file.run(photo)
        if not np.isfinite(expected).all():
            raise UserError(f"the network gives scores that are not finite on {item.image}; its weights are broken")
        maps = [label_of(found), expected.argmax(axis=1)[0].astype(np.uint8)]
        same, pixels = same + int((maps[0] == maps[1]).sum()), pixels + maps[0].size
        if "logits" in found:
            difference = max(difference or 0.0, float(np.abs(found["logits"][:1] - expected).max()))
        if truth is not None:
            for confusion, one in zip(confusions, maps, strict=True):
                confusion += _confusion(truth, one, count)
            labelled += 1
    left_out = [i for i, name in enumerate(classes.names) if name in excluded]
    mious = (mean_iou(c, excluded=left_out) if labelled else math.nan for c in confusions)
    miou, miou_pytorch = (None if math.isnan(value) else value for value in mious)  # of excluded classes alone: none
    return Comparison(len(items), same / pixels, difference, miou, miou_pytorch, excluded)


def label_of(outputs: dict[str, np.ndarray]) -> np.ndarray:
    """(H,W) uint8: the first photo's label map."""
    if "label" in outputs:
        return outputs["label"][0]
    return outputs["logits"][0].argmax(axis=0).astype(np.uint8)


def _confusion(truth: np.ndarray, label: np.ndarray, count: int) -> torch.Tensor:
    resized = np.ascontiguousarray(resize(label, *truth.shape, nearest=True))
    return confusion_matrix(torch.from_numpy(truth), torch.from_numpy(resized), count)
