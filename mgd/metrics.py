"""Confusion matrix, boundary counts and the scores that follow from them; no I/O."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_INDEX = 255
CHUNK = 2**22  # pixels that are counted at once: in int64 they take 32 MiB
BOUNDARY = 0.02  # width of a boundary as a share of the image's diagonal, as in the paper


def confusion_matrix(label: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """Count pixels by (label, prediction).

    Args:
        label: integer tensor of any shape; values outside 0..num_classes-1 (such as 255) are not counted.
        prediction: same shape, values 0..num_classes-1 wherever the label counts.

    Returns:
        (num_classes, num_classes) int64; rows: label, columns: prediction.
    """
    matrix = torch.zeros(num_classes**2, dtype=torch.int64, device=label.device)
    pairs = zip(label.flatten().split(CHUNK), prediction.flatten().split(CHUNK), strict=True)
    for own, guess in ((own.long(), guess.long()) for own, guess in pairs):
        counted = (own >= 0) & (own < num_classes)
        matrix += torch.bincount(own[counted] * num_classes + guess[counted], minlength=num_classes**2)
    return matrix.reshape(num_classes, num_classes)


def boundary_counts(label: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """What Boundary IoU is made of (Cheng et al., CVPR 2021): pixels near the contour of their own region.

    Near is within 2 % of the image's diagonal, along rows and columns; an image's border is a contour.

    Args:
        label: (H,W) uint8; pixels with values outside 0..num_classes-1 are not counted.
        prediction: (H,W) uint8.

    Returns:
        (3, num_classes) int64: pixels of each class near contours in both maps, in the label, in the prediction.
    """
    distance = max(1, round(BOUNDARY * math.hypot(*label.shape)))
    valid = label < num_classes
    own, guess = (_near_contour(one, distance) & valid for one in (label, prediction))
    both = own & guess & (label == prediction)
    picked = ((label, both), (label, own), (prediction, guess))
    counts = [torch.bincount(one[where].long(), minlength=num_classes) for one, where in picked]
    return torch.stack(counts)


def _near_contour(regions: Tensor, distance: int) -> Tensor:
    """(H,W) bool: another value, or the outside, is at most `distance` rows and columns away."""
    values = F.pad(regions.float()[None], (distance,) * 4, value=-1.0)
    both = torch.stack([values, -values])  # the greatest of the negated is the negated least
    side = 2 * distance + 1
    greatest, negated_least = F.max_pool2d(F.max_pool2d(both, (side, 1), stride=1), (1, side), stride=1)
    return (greatest != -negated_least)[0]


def iou_per_class(confusion: Tensor) -> Tensor:
    """Intersection over union, (K,) float64; NaN for a class that is in neither label nor prediction."""
    confusion = confusion.double()
    intersection = confusion.diagonal()
    return intersection / (confusion.sum(0) + confusion.sum(1) - intersection)


def mean_iou(confusion: Tensor, *, excluded: Sequence[int] = ()) -> float:
    """Mean over the classes that occur in label or prediction and are not excluded, 0..1; NaN when there is none."""
    iou = iou_per_class(confusion)
    iou[list(excluded)] = math.nan
    return float(torch.nanmean(iou))


def dice_per_class(confusion: Tensor) -> Tensor:
    """Twice the intersection over the sum of both areas, (K,) float64; NaN as in `iou_per_class`."""
    confusion = confusion.double()
    return 2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))


def boundary_iou_per_class(counts: Tensor) -> Tensor:
    """Boundary IoU from (summed) `boundary_counts`, (K,) float64; NaN for a class without a contour in either map."""
    both, own, guess = counts.double()
    return both / (own + guess - both)


def pixel_accuracy(confusion: Tensor) -> float:
    """Share of counted pixels that are right, 0..1; NaN when none is counted."""
    confusion = confusion.double()
    return float(confusion.diagonal().sum() / confusion.sum())
