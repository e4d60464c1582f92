"""How right labels are after `data.short_side`: python benchmarks/shrunk_labels.py ../shared/fashion 72

Prints the figures of docs/differences.md: the mIoU of a validation list's labels, shrunk and enlarged again as scores
are, against themselves, which is the most that a network that reproduces its training labels can reach.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from mgd.config import Data
from mgd.data.classes import read_classes
from mgd.data.datasets import open_val
from mgd.data.images import load_label
from mgd.data.transforms import shrink
from mgd.metrics import confusion_matrix, mean_iou


def opencv(label: np.ndarray, short_side: int) -> np.ndarray:
    """What OpenCV's nearest neighbour makes of it."""
    height, width = shrink(label, short_side, nearest=True).shape
    return cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)


def ours(label: np.ndarray, short_side: int) -> np.ndarray:
    return shrink(label, short_side, nearest=True)


def score(shrinks: Callable[[np.ndarray, int], np.ndarray], data: Data, num_classes: int) -> float:
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for item in open_val(data):
        assert item.label is not None  # `open_val` refuses a list without labels
        label = load_label(item.label, num_classes, data.ignore_values)
        small = torch.from_numpy(shrinks(label, data.short_side)).long().clamp(max=num_classes)
        scores = F.one_hot(small, num_classes + 1).permute(2, 0, 1)[None].float()
        found = F.interpolate(scores, label.shape, mode="bilinear", align_corners=False)[0, :num_classes].argmax(dim=0)
        confusion += confusion_matrix(torch.from_numpy(label), found, num_classes)
    return mean_iou(confusion)


if __name__ == "__main__":
    data = Data(root=sys.argv[1], short_side=int(sys.argv[2]))
    count = len(read_classes(data.classes, Path(data.root)))
    print(f"OpenCV's nearest {100 * score(opencv, data, count):.1f}, ours {100 * score(ours, data, count):.1f} mIoU")
