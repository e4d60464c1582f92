"""Decode every training photo and its label map once, and store the pixels (`mgd.data.pack`)."""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from mgd.config import Data
from mgd.data.datasets import Splits, hidden_truth, load_small
from mgd.data.items import Item
from mgd.data.loaders import make_loader
from mgd.data.pack import KINDS, PACK, Source, folder_of, pack_contents, source_of
from mgd.data.store import StoreWriter, check_contents, known_facts, photo_name
from mgd.errors import UserError
from mgd.parallel import cores
from mgd.progress import Progress

PROBES = 16  # photos that size and time are estimated from
NOTHING = np.zeros((0, 0), np.uint8)  # in place of a label map that is not there


class Estimate(NamedTuple):
    """What is left to pack."""

    photos: int
    bytes: int
    seconds: float


class Packed(NamedTuple):
    """What was done: photos that were decoded, and what was wrong with those that were left out."""

    photos: int
    broken: list[str]


class _Decoded(Dataset):
    """Index -> pixels of a photo, of its label map, and the files that they are of."""

    def __init__(self, items: Sequence[Item], splits: Splits, data: Data) -> None:
        self.items, self.data, self.num_classes = items, data, len(splits.classes)
        self.labeled = {item.image for item in splits.labeled}

    def __getitem__(self, index: int) -> dict[str, Any]:
        item, problem = self.items[index], ""
        source = source_of(item, Path(self.data.root))
        try:
            image, label = self._load(item)
        except UserError as error:
            if not self.data.skip_broken:
                raise
            image, label, problem = NOTHING[..., None], None, str(error)
        arrays = {"image": torch.from_numpy(image), "label": torch.from_numpy(NOTHING if label is None else label)}
        return {"index": index, "source": source, "problem": problem, **arrays}

    def _load(self, item: Item) -> tuple[np.ndarray, np.ndarray | None]:
        """A label that this partition does not use may be broken: nobody reads it, then it is not packed."""
        try:
            return load_small(item, self.data, self.num_classes)
        except UserError:
            if item.label is None or item.image in self.labeled:
                raise
            return load_small(replace(item, label=None), self.data, self.num_classes)


def pack(data: Data, splits: Splits) -> Packed:
    """Write the store of `data.pack_dir`, or go on with it. A process that is killed loses the last few photos at most.

    Photos that have changed since they were packed are packed once more. What is broken is left out with
    `data.skip_broken`.

    Raises:
        UserError: the folder holds a store of something else; a photo or a label is broken; the disk is full.
    """
    items, broken = _items(data, splits), list[str]()
    with closing(StoreWriter(PACK, folder_of(data), pack_contents(data, splits), KINDS)) as store:
        left = _left(items, store.done, Path(data.root))
        decoded, cpu = _Decoded(items, splits, data), torch.device("cpu")
        loader = make_loader(decoded, left, workers=data.workers, device=cpu, batched=False)
        for sample in Progress(loader, desc="pack", unit="photo", disable=None):
            image, label = sample["image"].numpy(), sample["label"].numpy()
            facts = (sample["index"], *image.shape[:2], *sample["source"])
            store.append(facts, [image.ravel().data, label.ravel().data])
            broken += [sample["problem"]] if sample["problem"] else []
    return Packed(len(left), broken)


def estimate(data: Data, splits: Splits) -> Estimate:
    """Size of what is left to pack, and the time that it takes, from a few photos; writes nothing.

    Raises:
        UserError: as `pack` does, of these few.
    """
    items, folder = _items(data, splits), folder_of(data)
    if (folder / PACK.description).is_file():
        check_contents(PACK, folder, pack_contents(data, splits))
    left = _left(items, known_facts(PACK, folder, len(KINDS)), Path(data.root))
    if not left:
        return Estimate(0, 0, 0.0)
    decoded = _Decoded(items, splits, data)
    probes = sorted({left[i * (len(left) - 1) // (PROBES - 1)] for i in range(PROBES)})
    started, size = time.perf_counter(), 0
    for index in probes:
        sample = decoded[index]
        size += sample["image"].numel() + sample["label"].numel()
    seconds = (time.perf_counter() - started) / max(1, min(data.workers, cores()))
    return Estimate(len(left), size * len(left) // len(probes), seconds * len(left) / len(probes))


def _items(data: Data, splits: Splits) -> list[Item]:
    """Every photo once, in the order of the store, with a label map where there is one: others may be partitioned."""
    known = {item.image: item for item in (*splits.unlabeled, *hidden_truth(data), *splits.labeled)}
    return sorted(known.values(), key=lambda item: photo_name(item.image, Path(data.root)))


def _left(items: Sequence[Item], done: dict[int, tuple[int, ...]], root: Path) -> list[int]:
    """Places of the photos that are not in the store as they are now."""
    first = len(PACK.facts) - len(Source._fields)

    def is_there(place: int, item: Item) -> bool:
        if place not in done:
            return False
        # Of a photo without a label here its own size and time count: another partition may have packed its label.
        facts = len(Source._fields) if item.label else Source._fields.index("label")
        return done[place][first : first + facts] == source_of(item, root)[:facts]

    return [place for place, item in enumerate(items) if not is_there(place, item)]
