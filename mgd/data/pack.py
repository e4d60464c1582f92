"""The decode-once store of training photos and their label maps: of it a loader reads only the rows of a crop."""

import logging
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgd.config import Data
from mgd.data.datasets import Splits
from mgd.data.items import Item, Items
from mgd.data.store import Contents, Format, Store, photo_name, photo_names
from mgd.errors import UserError, first_few

log = logging.getLogger(__name__)
PACK = Format(
    version="mgd-pack-1",
    description="pack.json",
    holds="the pixels",
    command="pack",
    done="packed",
    setting="data.pack_dir",
    facts=(
        *(("place", "<u4"), ("height", "<u4"), ("width", "<u4"), ("bytes", "<u8"), ("mtime", "<i8")),
        *(("label", "<u4"), ("label_bytes", "<u8"), ("label_mtime", "<i8")),
    ),
)
KINDS = (["image", 3], ["label", 1])  # (H,W,3) and (H,W) uint8; a photo without a label has 0 bytes of the second


class Source(NamedTuple):
    """By what the files of a photo's pixels are known again. Times are in whole seconds, as archives keep them."""

    bytes: int
    mtime: int
    label: int = 0  # crc32 of the label map's name; zeros where there is none
    label_bytes: int = 0
    label_mtime: int = 0


def source_of(item: Item, root: Path) -> Source:
    """How the files of an item are now. Raises OSError where one is not there."""
    found = Source(*_size_and_time(item.image))
    if item.label is None:
        return found
    name = zlib.crc32(photo_name(item.label, root).encode())
    return Source(*found[:2], name, *_size_and_time(item.label))


class Pack(Store):
    """A finished store of pixels. Raises UserError as `Store` does."""

    def __init__(self, data: Data, splits: Splits) -> None:
        self.root = Path(data.root)
        super().__init__(PACK, folder_of(data), pack_contents(data, splits))

    def load(self, item: Item) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Photo (H,W,3) and label map (H,W) or None, not yet read from the disk; neither may be written to.

        None for both where the store lacks one of them, or their files are not those that were packed.
        """
        index = self.find(photo_name(item.image, self.root))
        if not self._is_fresh(index, item):
            return None
        record = self.records[index]
        height, width = int(record["height"]), int(record["width"])
        if not all(record["lengths"][: 1 if item.label is None else 2]):  # it was broken
            return None
        image = self.content(index, 0).reshape(height, width, 3)
        return image, None if item.label is None else self.content(index, 1).reshape(height, width)

    def stale(self, items: Items) -> Items:
        """Those whose files are not the ones that were packed; photos by the state that the items know."""
        records = self.records[places := self.places(photo_names(items.images, self.root))]
        now = items.states
        fresh = (records["bytes"].astype(np.int64) == now[:, 0]) & (records["mtime"] == now[:, 1])
        labeled = [i for i, label in enumerate(items.labels) if label]
        with ThreadPoolExecutor(16) as pool:  # on a network drive it is waiting that takes the time
            fresh[labeled] = list(pool.map(self._is_fresh, places[labeled].tolist(), map(items.__getitem__, labeled)))
        return items.take(np.flatnonzero(~fresh))

    def _is_fresh(self, index: int, item: Item) -> bool:
        try:
            now = source_of(item, self.root)
        except OSError:
            return False
        asked = now._fields if item.label else now._fields[:2]
        return all(getattr(now, name) == self.records[name][index] for name in asked)


def folder_of(data: Data) -> Path:
    """Where the store is."""
    return Path(data.root) / data.pack_dir


def pack_contents(data: Data, splits: Splits) -> Contents:
    """What a store must be of to serve this data set, however it is partitioned."""
    photos = {
        photo for part in (splits.labeled, splits.unlabeled) for photo in photo_names(part.images, Path(data.root))
    }
    labels = {"label_map": list(data.label_map), "ignore_values": list(data.ignore_values)}
    return Contents(tuple(sorted(photos)), {"classes": len(splits.classes), "short_side": data.short_side, **labels})


def open_pack(data: Data, splits: Splits) -> Pack | None:
    """The store that training reads from, as `data.pack` asks for; what keeps it from it is logged with "auto".

    Raises:
        UserError: with "on", there is none, or it is not all there and fresh.
    """
    pack, problem = find_pack(data, splits)
    if problem and data.pack == "on":
        raise UserError(f"{problem}; or set data.pack=off")
    if problem:
        log.warning("%s; until then they are decoded from their files", problem)
    return pack


def find_pack(data: Data, splits: Splits) -> tuple[Pack | None, str]:
    """(the store that can be used, what is wrong with it in words or "")."""
    if data.pack == "off" or (data.pack == "auto" and not (folder_of(data) / PACK.description).is_file()):
        return None, ""
    try:
        pack = Pack(data, splits)
    except UserError as error:
        return None, str(error)
    items = splits.labeled + splits.unlabeled
    if not (stale := pack.stale(items)):
        return pack, ""
    names, share = first_few(stale.images), f"{len(stale):,} of {len(items):,} photos"
    return pack, f"{names} or a label map changed since being packed ({share}); {PACK.remedy}"


def _size_and_time(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, int(status.st_mtime)
