"""What frozen teachers left of every photo: a store that is written once, image by image, and read at random.

In its folder `maps.json` tells what the maps are of, `data-<rank>.bin` holds them, and `index-<rank>.bin` one record of
fixed size for each image, written after its maps: a process that is killed leaves at worst a tail that the next one
cuts off. A rank writes files of its own; all of them make the store.
"""

import hashlib
import json
import os
import zlib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mgd.data.transforms import Geometry, cut
from mgd.errors import UserError, first_few
from mgd.files import read_text, write_json
from mgd.metrics import IGNORE_INDEX

FORMAT = "mgd-maps-1"
PENDING = 32  # images whose maps are put on the disk together
LEVEL = 1  # of zlib: label maps are mostly large areas


class Kind(NamedTuple):
    """One kind of map. Full maps are (H,W) uint8, compressed; coarse ones (h,w,channels), cells of `stride` pixels."""

    name: str  # such as deep.label, wide.feature
    stride: int = 1
    channels: int = 0
    dtype: str = "|u1"

    def shape(self, height: int, width: int) -> tuple[int, ...]:
        """Of a photo's map."""
        cells = (-(-height // self.stride), -(-width // self.stride))
        return (*cells, self.channels) if self.channels else cells


@dataclass(frozen=True)
class Contents:
    """What a store is of: equal in two stores that can stand for each other.

    Attributes:
        photos: the images' names, sorted; the index counts in this order.
        facts: teachers, classes, options; JSON values. What kinds of maps there are follows from them.
    """

    photos: tuple[str, ...]
    facts: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        sha256 = hashlib.sha256("\n".join(self.photos).encode()).hexdigest()
        return {"format": FORMAT, "photos": len(self.photos), "photos_sha256": sha256, **self.facts}


class Photo(NamedTuple):
    """An image whose maps are stored: its size in pixels, and the bytes of its file when the teachers saw it."""

    place: int  # in the list
    height: int
    width: int
    bytes: int


class MapsWriter:
    """Adds images to a store; what is there already stays.

    Raises:
        UserError: the folder holds maps of something else, or cannot be written to.
    """

    def __init__(self, folder: Path, contents: Contents, kinds: Sequence[Kind], *, rank: int = 0) -> None:
        self.folder, self.kinds = folder, kinds
        self._record = record_type(len(kinds))
        if not (folder / "maps.json").is_file():
            write_json(folder / "maps.json", contents.to_dict() | {"kinds": [list(kind) for kind in kinds]})
        check_contents(folder, contents)
        index = _Appended(folder / f"index-{rank}.bin")
        records = _whole_records(index.path, self._record)
        data = _Appended(folder / f"data-{rank}.bin")
        records = records[: _count_within(records, data.size)]  # the index goes on the disk last, but be sure
        index.cut_off(len(records) * self._record.itemsize)
        data.cut_off(int(records[-1]["offset"] + records[-1]["lengths"].sum()) if len(records) else 0)
        self._index, self._data = index, data
        self._waiting: list[np.ndarray] = []
        self.done = {int(i) for part in _all_records(folder, self._record) for i in part["place"]}

    def add(self, photo: Photo, maps: Mapping[str, np.ndarray]) -> int:
        """Store the maps of an image; returns how many bytes they take."""
        record = np.zeros((), self._record)
        record["place"], record["height"], record["width"], record["bytes"] = photo
        record["offset"] = self._data.size
        for i, kind in enumerate(self.kinds):
            array = np.ascontiguousarray(maps[kind.name], np.dtype(kind.dtype))
            assert array.shape == kind.shape(photo.height, photo.width), (kind, array.shape)
            content = array.tobytes() if kind.channels else zlib.compress(array, LEVEL)
            self._data.append(content)
            record["lengths"][i] = len(content)
        record["check"] = _check(record)
        self._waiting.append(record)
        self.done.add(photo.place)
        if len(self._waiting) >= PENDING:
            self.flush()
        return int(record["lengths"].sum())

    def flush(self) -> None:
        """Put what was added on the disk: first the maps, then the records that tell of them."""
        self._data.sync()
        if self._waiting:
            self._index.append(b"".join(record.tobytes() for record in self._waiting))
            self._waiting.clear()
            self._index.sync()

    def close(self) -> None:
        self.flush()
        self._data.close()
        self._index.close()


class Maps:
    """A finished store, for many readers: files are mapped into memory when a process first reads from them.

    Raises:
        UserError: there is none, it is of something else, not finished, or cut short.
    """

    def __init__(self, folder: Path, contents: Contents) -> None:
        if not (folder / "maps.json").is_file():
            raise UserError(f"{folder} holds no teachers' maps; make them first: python -m mgd teach CONFIG")
        self.kinds = check_contents(folder, contents)
        self.folder, self.contents = folder, contents
        self._places = {kind.name: i for i, kind in enumerate(self.kinds)}
        parts = _all_records(folder, record_type(len(self.kinds)))
        found = sum(map(len, parts))
        if found < len(contents.photos):
            raise UserError(
                f"{folder} has the teachers' maps of {found:,} of {len(contents.photos):,} photos; "
                "the same `python -m mgd teach` goes on with it"
            )
        self._records = np.concatenate(parts)
        self._part = np.concatenate([np.full(len(part), i, np.int32) for i, part in enumerate(parts)])
        order = np.argsort(self._records["place"], kind="stable")
        self._records, self._part = self._records[order], self._part[order]
        self._files = _parts(folder, "data")
        for file, records in zip(self._files, parts, strict=True):
            if _count_within(records, file.stat().st_size) < len(records):
                raise UserError(f"{file} is cut short; delete {folder} and teach again")
        self._mapped: dict[int, np.ndarray] = {}

    def find(self, photo: str) -> int:
        """Where an image stands in the store."""
        place = bisect_left(self.contents.photos, photo)
        assert self.contents.photos[place] == photo
        return place

    def photo(self, index: int) -> Photo:
        record = self._records[index]
        return Photo(index, int(record["height"]), int(record["width"]), int(record["bytes"]))

    def full(self, index: int, name: str) -> np.ndarray:
        """(H,W) uint8: a label map or a confidence (255 is certain)."""
        photo = self.photo(index)
        try:
            content = zlib.decompress(self._content(index, name))
        except zlib.error as error:
            raise UserError(f"{self.folder} is damaged ({error}); delete it and teach again") from error
        return np.frombuffer(content, np.uint8).reshape(photo.height, photo.width)

    def coarse(self, index: int, name: str) -> np.ndarray:
        """(h,w,C), not yet read from the disk: what is sliced out of it is."""
        photo, kind = self.photo(index), self.kind(name)
        content = self._content(index, name)
        return content.view(np.dtype(kind.dtype)).reshape(kind.shape(photo.height, photo.width))

    def kind(self, name: str) -> Kind:
        return self.kinds[self._places[name]]

    def crop_full(self, index: int, name: str, geometry: Geometry) -> np.ndarray:
        """(crop,crop) uint8 of a label map; 255 in the padding."""
        return cut(self.full(index, name), geometry, fill=IGNORE_INDEX, nearest=True)

    def crop_coarse(self, index: int, name: str, geometry: Geometry) -> np.ndarray:
        """(C,g,g) of a coarse map: cells of its stride in the crop, 0 where there is no photo."""
        photo, stride = self.photo(index), self.kind(name).stride
        top, _, left, _ = geometry.extent
        rows = cells(photo.height, stride, geometry.height, geometry.top - top, geometry.crop, flip=False)
        columns = cells(photo.width, stride, geometry.width, geometry.left - left, geometry.crop, flip=geometry.flip)
        return _weigh(rows, columns, self.coarse(index, name)).astype(self.kind(name).dtype)

    def _content(self, index: int, name: str) -> np.ndarray:
        record, place = self._records[index], self._places[name]
        start = int(record["offset"]) + int(record["lengths"][:place].sum())
        part = int(self._part[index])
        if part not in self._mapped:
            self._mapped[part] = np.memmap(self._files[part], np.uint8, "r")
        return self._mapped[part][start : start + int(record["lengths"][place])]


def cells(side: int, stride: int, scaled: int, start: int, crop: int, *, flip: bool) -> np.ndarray:
    """How a crop's cells are made of a photo's, along one side: (crop cells, photo cells) float32, rows sum to 1 or 0.

    A cell's share in another is what they have in common: the mean over a crop is that of the photo's part, and
    without scaling, mirroring or shift the matrix is the identity.

    Args:
        side, scaled: the photo's length in pixels, before and after scaling.
        start: where the crop begins in the scaled photo; negative where padding comes first.
    """
    edges = (np.append(np.arange(0, crop, stride), crop) + start).clip(0, scaled)
    edges = (scaled - edges if flip else edges) * (side / scaled)
    low, high = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
    own = np.append(np.arange(0, side, stride), side)
    common = np.minimum(high[:, None], own[1:]) - np.maximum(low[:, None], own[:-1])
    common = common.clip(min=0)
    total = common.sum(axis=1, keepdims=True)
    return np.divide(common, total, out=np.zeros_like(common), where=total > 0).astype(np.float32)


def _weigh(rows: np.ndarray, columns: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """(a,h), (b,w), (h,w,C) -> (C,a,b); reads only what has a weight."""
    (top, bottom), (left, right) = (_used(weights) for weights in (rows, columns))
    part = coarse[top:bottom, left:right].astype(np.float32)
    height, width, channels = part.shape
    half = (rows[:, top:bottom] @ part.reshape(height, -1)).reshape(-1, width, channels)
    return np.matmul(columns[:, left:right], half).transpose(2, 0, 1)


def _used(weights: np.ndarray) -> tuple[int, int]:
    used = np.flatnonzero(weights.any(axis=0))
    return int(used[0]), int(used[-1]) + 1


def photo_name(image: str | Path, root: Path) -> str:
    """How a store names an image: its path below the data's root, where it is there."""
    return str(image).removeprefix(str(root / "x")[:-1])


def record_type(kinds: int) -> np.dtype:
    """What the index holds for each image."""
    fields = [("place", "<u4"), ("height", "<u4"), ("width", "<u4"), ("bytes", "<u8"), ("offset", "<u8")]
    return np.dtype([*fields, ("lengths", "<u8", (kinds,)), ("check", "<u4")])


def check_contents(folder: Path, contents: Contents) -> tuple[Kind, ...]:
    """The kinds of maps in a store. Raises UserError naming the first thing that it is of and should not be."""
    path = folder / "maps.json"
    try:
        found = json.loads(read_text(path))
    except ValueError:
        found = None
    wanted = json.loads(json.dumps(contents.to_dict()))
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UserError(f"{path} is not what this version writes ({FORMAT}); delete {folder} and teach again")
    if wrong := [key for key in wanted if found.get(key) != wanted[key]]:
        there, here = (_short(value.get(wrong[0])) for value in (found, wanted))
        raise UserError(
            f"{folder} is of another {first_few(wrong)}: {wrong[0]} is {there} there and {here} here; choose another "
            "method.teach.dir, or delete the folder and teach again"
        )
    return tuple(Kind(*kind) for kind in found["kinds"])


class _Appended:
    """A file that is only appended to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error}); choose another method.teach.dir") from error
        self.size = path.stat().st_size

    def cut_off(self, size: int) -> None:
        self._file.truncate(size)
        self.size = size

    def append(self, content: bytes) -> None:
        self.size += len(content)
        with self._told():
            rest = memoryview(content)
            while rest:
                rest = rest[self._file.write(rest) :]

    def sync(self) -> None:
        with self._told():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error}); what was taught before stays: free space, then the same "
                "command goes on"
            ) from error


def _parts(folder: Path, what: str) -> list[Path]:
    """The files of the ranks, in one order."""
    return sorted(folder.glob(f"{what}-*.bin"), key=lambda path: (len(path.name), path.name))


def _all_records(folder: Path, kind: np.dtype) -> list[np.ndarray]:
    return [_whole_records(path, kind) for path in _parts(folder, "index")]


def _whole_records(path: Path, kind: np.dtype) -> np.ndarray:
    """The records before the first that is not whole: one of the last, which were being written."""
    content = path.read_bytes()
    records = np.frombuffer(content[: len(content) // kind.itemsize * kind.itemsize], kind)
    last = max(0, len(records) - 2 * PENDING)
    sound = [int(record["check"]) == _check(record) for record in records[last:]]
    return records[: last + sound.index(False)] if False in sound else records


def _check(record: np.ndarray) -> int:
    return zlib.crc32(record.tobytes()[:-4])


def _count_within(records: np.ndarray, size: int) -> int:
    """How many records tell of maps that lie within the first `size` bytes."""
    return int(np.sum(records["offset"] + records["lengths"].sum(axis=1) <= size))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
