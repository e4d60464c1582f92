"""Weights that balance classes in the loss, from how often the labelled images hold them."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mgd.config import Data
from mgd.data.images import load_label
from mgd.data.items import Item
from mgd.data.transforms import shrink
from mgd.errors import UserError
from mgd.parallel import cores


def class_weights(items: Iterable[Item], data: Data, num_classes: int) -> tuple[float, ...]:
    """Median frequency balancing of the labels as training reads them: each class's weight in the loss.

    The weight of class c goes as 1 / frequency(c), which is its share of the labelled pixels of the images that hold it
    (Eigen and Fergus, ICCV 2015). Theirs is the median frequency times that; here the weights are scaled so
    that their mean over all labelled pixels is 1, and the loss keeps its scale beside the other terms. A class that no
    label holds has weight 1.

    Args:
        items: the labelled part. With `data.skip_broken` labels that cannot be read are left out.

    Raises:
        UserError: a label cannot be read.
    """

    def count(item: Item) -> np.ndarray:
        assert item.label is not None
        try:
            label = load_label(item.label, num_classes, data.ignore_values, data.label_map)
        except UserError:
            if not data.skip_broken:
                raise
            return np.zeros(num_classes, np.int64)
        small = shrink(label, data.short_side, nearest=True)
        return np.bincount(small.ravel(), minlength=256)[:num_classes]

    pixels, around = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    with ThreadPoolExecutor(cores()) as pool:
        for counts in pool.map(count, items):
            pixels += counts
            around += counts.sum() * (counts > 0)
    held = pixels > 0
    if not held.any():
        return (1.0,) * num_classes
    weights = around[held] / pixels[held]
    weights /= (weights * pixels[held]).sum() / pixels.sum()
    found = np.ones(num_classes)
    found[held] = weights
    return tuple(found.tolist())
