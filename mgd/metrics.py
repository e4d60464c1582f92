"""Confusion matrix and the scores that follow from it; no I/O."""

import torch
from torch import Tensor

IGNORE_INDEX = 255


def confusion_matrix(label: Tensor, prediction: Tensor, num_classes: int) -> Tensor:
    """Count pixels by (label, prediction).

    Args:
        label: integer tensor of any shape; values outside 0..num_classes-1 (such as 255) are not counted.
        prediction: same shape, values 0..num_classes-1 wherever the label counts.

    Returns:
        (num_classes, num_classes) int64; rows: label, columns: prediction.
    """
    label, prediction = label.flatten().long(), prediction.flatten().long()
    counted = (label >= 0) & (label < num_classes)
    index = label[counted] * num_classes + prediction[counted]
    return torch.bincount(index, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_per_class(confusion: Tensor) -> Tensor:
    """Intersection over union, (K,) float64; NaN for a class that is in neither label nor prediction."""
    confusion = confusion.double()
    intersection = confusion.diagonal()
    return intersection / (confusion.sum(0) + confusion.sum(1) - intersection)


def mean_iou(confusion: Tensor) -> float:
    """Mean over the classes that occur in label or prediction, 0..1; NaN when there is none."""
    return float(torch.nanmean(iou_per_class(confusion)))


def pixel_accuracy(confusion: Tensor) -> float:
    """Share of counted pixels that are right, 0..1; NaN when none is counted."""
    confusion = confusion.double()
    return float(confusion.diagonal().sum() / confusion.sum())
