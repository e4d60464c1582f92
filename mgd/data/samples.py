"""From splits to samples: what a position (`mgd.data.positions`) gets never changes."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from mgd.config import Experiment, UniMatch, burn_in
from mgd.data.classes import Classes
from mgd.data.cutmix import box_masks
from mgd.data.datasets import Splits, load_pair, load_small
from mgd.data.items import Item, Items
from mgd.data.maps import FULL, Maps, wanted_maps
from mgd.data.pack import Pack
from mgd.data.positions import LABELED, MASK, NOISE, OTHER_MASK, PARTNER, SAMPLE, UNLABELED, draw
from mgd.data.store import photo_name
from mgd.data.transforms import Geometry, augment, shrink
from mgd.errors import UserError, first_few

RARE_TRIES = 10  # crops of an image that are drawn until one holds a rare class

Pick = tuple[Item, np.ndarray, np.ndarray | None]  # with its image and its label


class TrainingSamples(Dataset):
    """Position -> uint8 arrays of a sample, images (H,W,3); `collate` makes tensors of several.

    Raises UserError when the parts are too small for the method.

    With data.partner="batch" the second image of a position p is the first, as augmented there, of the position beside
    it (p + 1 where p is even, else p - 1), so that it is there already where both are in one forward pass.
    """

    def __init__(
        self,
        splits: Splits,
        config: Experiment,
        *,
        together: int = 1,
        maps: Maps | None = None,
        pack: Pack | None = None,
        labels_alone_from: int | None = None,
    ) -> None:
        """What a position gets depends on these alone.

        Args:
            together: images in a forward pass.
            maps: what the teachers left, with method.teachers="offline".
            pack: decoded photos, where there are some.
            labels_alone_from: the iteration from which on there are no unlabelled images, as in those of a burn-in;
                None: they never end.
        """
        self.pack = pack
        self.splits, self.data, self.seed = splits, config.data, config.train.seed
        self.maps, self.wanted = maps, wanted_maps(config) if maps is not None else {}
        self.shares_first = config.data.partner == "batch" and together % 2 == 0
        self.uses_unlabeled = config.method.uses_unlabeled
        self.pairs_begin = burn_in(config.method) * config.train.batch_size
        self.pairs_end = math.inf if labels_alone_from is None else labels_alone_from * config.train.batch_size
        self.takes_two_views = isinstance(config.method, UniMatch)
        self.rare = _indices(config.data.rare_classes, splits.classes) if config.data.rare_crops else []
        self._cache: dict[Item, tuple[np.ndarray, np.ndarray | None]] = {}
        self._readable = set[Item]()  # with data.skip_broken
        if self.uses_unlabeled and len(few := _first_two(splits.unlabeled.images)) < 2:
            raise UserError(
                f"data.partition={config.data.partition} leaves {len(few)} unlabelled images, CutMix "
                "needs 2 or more; choose a greater partition, name photos in data.unlabeled, or set method=supervised"
            )

    def __getitem__(self, position: int) -> dict[str, Any]:
        broken: list[str] = []
        places = self._places(position)
        if self.shares_first:
            places.pop("second", None)
        # All that is drawn comes first: between decodings each call would find its code gone from the caches.
        drawn = {name: (self._candidates(*place), self._rng(*place)) for name, place in places.items()}
        sample = self._drawn_for_pair(position)
        for name, (candidates, rng) in drawn.items():
            # A last stage has no teachers: nothing of their maps is read.
            kinds = self.wanted[name] if self.maps is not None and self._has_pair(position) else []
            sample[name] = self._view(self._pick(*places[name], candidates, broken), rng, kinds)
        return sample | {"broken": "\n".join(broken)}

    def _drawn_for_pair(self, position: int) -> dict[str, Any]:
        """The masks of a pair of unlabelled images, and the number for what is done to it on the device."""
        if not self._has_pair(position):
            return {}
        crop = self.data.crop_size
        drawn: dict[str, Any] = {"mask": box_masks(1, crop, crop, generator=self._rng(MASK, position))[0]}
        if self.takes_two_views:
            drawn["other_mask"] = box_masks(1, crop, crop, generator=self._rng(OTHER_MASK, position))[0]
        if self.data.strong or self.takes_two_views:
            drawn["noise"] = int(self._rng(NOISE, position).integers(2**63))
        return drawn

    def _has_pair(self, position: int) -> bool:
        return self.uses_unlabeled and self.pairs_begin <= position < self.pairs_end

    def names(self, position: int) -> list[str]:
        """The images that a position takes, for messages. Reads them: another may stand in for a broken one."""
        places = self._places(position).values()
        return [self._pick(*place, self._candidates(*place), [])[0].name for place in places]

    def _places(self, position: int) -> dict[str, tuple[int, int]]:
        """View -> the stream and the position that its image and its geometry are drawn for."""
        places = {"labeled": (LABELED, position)}
        if self._has_pair(position):
            places["first"] = (UNLABELED, position)
            places["second"] = (UNLABELED, position ^ 1) if self.data.partner == "batch" else (PARTNER, position)
        return places

    def _view(self, pick: Pick, rng: np.random.Generator, kinds: Sequence[str]) -> dict[str, Any]:
        """Augmented; of the maps these kinds."""
        item, image, label = pick
        crop, target, geometry = self._augmented(image, label, rng)
        view: dict[str, Any] = {"image": crop, "extent": np.array(geometry.extent)}
        if target is not None:
            view["label"] = target
        if self.maps is not None:
            view["maps"] = self._cut_maps(self.maps, item, image.shape[:2], geometry, kinds)
        return view

    def _augmented(
        self, image: np.ndarray, label: np.ndarray | None, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None, Geometry]:
        """A crop; with data.rare_crops drawn again, up to `RARE_TRIES` times, until its label holds a rare class."""
        options: dict[str, Any] = {"scales": self.data.scales, "crop": self.data.crop_size, "rng": rng}
        found = augment(image, label, **options)
        if label is None or not self.rare or rng.random() >= self.data.rare_crops:
            return found
        for _ in range(RARE_TRIES):
            if np.isin(found[1], self.rare).any():  # type: ignore[arg-type]
                break
            found = augment(image, label, **options)
        return found

    def _cut_maps(
        self, maps: Maps, item: Item, size: tuple[int, int], geometry: Geometry, kinds: Sequence[str]
    ) -> dict[str, dict[str, np.ndarray]]:
        """The stored maps of these kinds, cut as the image was."""
        index = maps.find(photo_name(item.image, Path(self.data.root)))
        photo = maps.photo(index)
        if (photo.height, photo.width) != size or photo.bytes != item.image.stat().st_size:
            raise UserError(f"{item.image} has changed since its maps were made; delete {maps.folder} and teach again")
        found: dict[str, dict[str, np.ndarray]] = {"labels": {}, "confidence": {}, "coarse": {}}
        for kind in kinds:
            teacher, _, what = kind.partition(".")
            if what in FULL:
                found[FULL[what]][teacher] = maps.crop_full(index, kind, geometry)
            else:
                found["coarse"][kind] = maps.crop_coarse(index, kind, geometry)
        return found

    def _items(self, stream: int) -> Items:
        return self.splits.labeled if stream == LABELED else self.splits.unlabeled

    def _candidates(self, stream: int, position: int) -> Iterator[Item]:
        """The item that is drawn, then those that may take its place."""
        items = self._items(stream)
        place = draw(self.seed, stream, position, len(items))
        return chain([items[place]], (items[(place + i) % len(items)] for i in range(1, len(items))))

    def _pick(self, stream: int, position: int, candidates: Iterator[Item], broken: list[str]) -> Pick:
        """The first candidate; with `data.skip_broken` the first that can be read, complaints go into `broken`."""
        taken = None
        if self.data.skip_broken and (other := self._pairs_with(stream, position)) is not None:
            taken = next(self._candidates(UNLABELED, other))
            if taken not in self._readable:  # another may stand in for it
                taken = self._pick(UNLABELED, other, self._candidates(UNLABELED, other), [])[0]
        for item in candidates:
            if item == taken:
                continue
            try:
                image, label = self._load(item)
                if self.data.skip_broken:
                    self._readable.add(item)
                return item, image, label
            except UserError as error:
                if not self.data.skip_broken:
                    raise
                broken.append(str(error))
        raise UserError(f"of {len(self._items(stream))} images none is left to train on: {first_few(broken)}")

    def _pairs_with(self, stream: int, position: int) -> int | None:
        """The position of the image that this one must differ from, where that is drawn first."""
        if stream == PARTNER:
            return position
        return position - 1 if stream == UNLABELED and position % 2 and self.data.partner == "batch" else None

    def _load(self, item: Item) -> tuple[np.ndarray, np.ndarray | None]:
        """Decoded and shrunk; from the pack where that has it, from memory with `data.cache`."""
        if self.data.cache and item in self._cache:
            return self._cache[item]
        pair = None if self.pack is None else self.pack.load(item)
        if pair is None:
            pair = load_small(item, self.data, len(self.splits.classes))
        if self.data.cache:
            self._cache[item] = pair
        return pair

    def _rng(self, stream: int, position: int) -> np.random.Generator:
        words = np.array([self.seed, SAMPLE, stream, position], np.uint32)  # as of a list, made in less time
        return np.random.default_rng(words)


class ValidationSamples(Dataset):
    """Index -> image as the network sees it and label map in its own size."""

    def __init__(self, items: Sequence[Item], config: Experiment, num_classes: int) -> None:
        self.items, self.data, self.num_classes = items, config.data, num_classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, label = load_pair(self.items[index], self.data, self.num_classes)
        assert label is not None  # `open_val` refuses a list without labels
        small = shrink(image, self.data.short_side)
        return {"index": index, "image": torch.from_numpy(small).permute(2, 0, 1), "label": torch.from_numpy(label)}


def _first_two(texts: Sequence[str]) -> list[str]:
    """The first text and the next one that differs, as far as they are there."""
    first = list(texts[:1])
    return first + list(islice((texts[i] for i in range(1, len(texts)) if texts[i] != first[0]), 1))


def _indices(names: Sequence[str], classes: Classes) -> list[int]:
    """Raises UserError where `data.rare_classes` names no class of the data."""
    for name in names:
        if name not in classes.names:
            text = f"data.rare_classes={name} is no class of the data; use some of {', '.join(classes.names)}"
            raise UserError(text)
    return [classes.names.index(name) for name in names]
