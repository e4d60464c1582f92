"""Dividing a user's training list into labelled and unlabelled, by a scheme."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mgd.data.datasets import Item, read_list
from mgd.data.images import load_label
from mgd.data.partitions import balanced_places, checked, random_places, write_partition
from mgd.files import read_text
from mgd.metrics import IGNORE_INDEX
from mgd.parallel import in_order

NAME = "train_aug_{part}_1-{ratio}.txt"  # the published lists' name, for any data set


def partition(path: Path, *, root: Path, ratio: int, scheme: str, seed: int = 0, force: bool = False) -> str:
    """Write the labelled and the unlabelled list of `path` into subset_<its name> beside it.

    Args:
        path: a list in any of the formats of `mgd.config.Data`, whose bare names stand for files in the folder of its
            name, or a folder of pairs.
        root: what the list's paths are relative to.
        scheme: "stride" (published: every ratio-th), "random" or "balanced".
        force: write over lists that are there and differ.

    Returns:
        What was written, or a warning where lists that differ were kept.

    Raises:
        UserError: the list or a file in it is missing, a label is broken, `ratio` is below 1.
    """
    items = read_list(path, root, path.stem, labels=True)
    if path.is_dir():
        lines = [f"{os.path.relpath(item.image, root)}\t{os.path.relpath(item.label or '', root)}" for item in items]
    else:
        lines = [line for line in read_text(path).splitlines() if line.strip()]
    if scheme == "stride":
        labeled: Sequence[int] = range(0, len(items), checked(ratio))
    elif scheme == "random":
        labeled = random_places(len(items), ratio, seed)
    else:
        labeled = balanced_places(count_pixels(items), ratio, seed)
    pattern = path.parent / f"subset_{path.stem}" / NAME
    told = write_partition(pattern, lines, labeled, ratio=ratio, scheme=scheme, seed=seed, force=force)
    return f"{told}\ntrain with data.partition={ratio} data.partition_lists={os.path.relpath(pattern, root)}"


def count_pixels(items: Sequence[Item]) -> np.ndarray:
    """(N,255) int64: how many pixels of each value the label maps hold; 255 is not counted."""
    return np.stack(list(in_order(_pixels, (item.label for item in items))))


def _pixels(label: Path | None) -> np.ndarray:
    assert label is not None  # `read_list` refuses a list without labels
    values = load_label(label, IGNORE_INDEX - 1)
    return np.bincount(values.ravel(), minlength=256)[:IGNORE_INDEX]
