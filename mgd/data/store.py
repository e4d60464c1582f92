"""Arrays of every photo in one file, written once, photo by photo, and read at random by many processes.

In a store's folder a description (JSON) tells what it is of, `data-<rank>.bin` holds the arrays, and `index-<rank>.bin`
one record of fixed size for each photo, written after its arrays: a process that is killed leaves at worst a tail that
the next one cuts off. A rank writes files of its own; all of them make the store.
"""

import hashlib
import json
import os
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mgd.data.items import Texts
from mgd.data.names import inside
from mgd.errors import UserError, first_few
from mgd.files import locked_by_another, read_text, write_json

PENDING = 32  # photos whose arrays are put on the disk together


class Format(NamedTuple):
    """What sets one kind of store apart from another: its files, and the words of its messages."""

    version: str  # such as mgd-maps-1
    description: str  # the file that tells what a store is of
    holds: str  # "the teachers' maps"
    command: str  # teach: `python -m mgd teach CONFIG` makes it
    done: str  # taught
    setting: str  # of a config, that names the folder
    facts: tuple[tuple[str, str], ...]  # fields of a record that are known before its arrays: name, NumPy's dtype

    @property
    def remedy(self) -> str:
        return f"python -m mgd {self.command} CONFIG"


@dataclass(frozen=True)
class Contents:
    """What a store is of: equal in two stores that can stand for each other.

    Attributes:
        photos: the images' names, sorted; the index counts in this order.
        facts: what made them, and how; JSON values.
    """

    photos: tuple[str, ...]
    facts: Mapping[str, Any]

    def to_dict(self, version: str) -> dict[str, Any]:
        sha256 = hashlib.sha256("\n".join(self.photos).encode()).hexdigest()
        return {"format": version, "photos": len(self.photos), "photos_sha256": sha256, **self.facts}


class StoreWriter:
    """Adds photos to a store; what is there already stays.

    Attributes:
        done: the facts of the photos that are there, by their place in the list.
    """

    def __init__(
        self, form: Format, folder: Path, contents: Contents, kinds: Sequence[Sequence[Any]], *, rank: int = 0
    ) -> None:
        """`kinds`: each array of a photo, as the description tells of it.

        Raises:
            UserError: the folder holds a store of something else, or cannot be written to.
        """
        self.form, self.folder = form, folder
        self._record = record_type(form, len(kinds))
        if not (folder / form.description).is_file():
            write_json(folder / form.description, contents.to_dict(form.version) | {"kinds": [list(k) for k in kinds]})
        check_contents(form, folder, contents)
        index, data = (_Appended(folder / f"{what}-{rank}.bin", form) for what in ("index", "data"))
        data.lock()
        records = _whole_records(index.path, self._record)
        records = records[: _count_within(records, data.size)]  # the index goes on the disk last, but be sure
        index.cut_off(len(records) * self._record.itemsize)
        data.cut_off(int(records[-1]["offset"] + records[-1]["lengths"].sum()) if len(records) else 0)
        self._index, self._data = index, data
        self._waiting: list[np.ndarray] = []
        self.done = known_facts(form, folder, len(kinds))

    def append(self, facts: Sequence[int], arrays: Sequence[bytes | memoryview]) -> int:
        """Store the arrays of a photo; returns how many bytes they take.

        Args:
            facts: the record's, in the order of `Format.facts`; the first is the photo's place in the list.
        """
        record = np.zeros((), self._record)
        for (name, _), value in zip(self.form.facts, facts, strict=True):
            record[name] = value
        record["offset"] = self._data.size
        record["lengths"] = [len(content) for content in arrays]
        for content in arrays:
            self._data.append(content)
        record["check"] = _check(record)
        self._waiting.append(record)
        self.done[facts[0]] = tuple(facts)
        if len(self._waiting) >= PENDING:
            self.flush()
        return int(record["lengths"].sum())

    def flush(self) -> None:
        """Put what was added on the disk: first the arrays, then the records that tell of them."""
        self._data.sync()
        if self._waiting:
            self._index.append(b"".join(record.tobytes() for record in self._waiting))
            self._waiting.clear()
            self._index.sync()

    def close(self) -> None:
        self.flush()
        self._data.close()
        self._index.close()


class Store:
    """A finished store, for many readers: files are mapped into memory when a process first reads from them.

    Attributes:
        described: each array of a photo, as the store's description tells of it.
        records: of the photos, in the order of the list; where a photo was stored again, the last.
    """

    def __init__(self, form: Format, folder: Path, contents: Contents) -> None:
        """Raises UserError: there is none, it is of something else, not finished, or cut short."""
        self.folder, self.contents = folder, contents
        self._names = Texts(contents.photos)  # loader processes look into it
        if not (folder / form.description).is_file():
            raise UserError(f"{folder} holds no {form.holds.removeprefix('the ')}; make them first: {form.remedy}")
        self.described: list[list[Any]] = check_contents(form, folder, contents)
        record = record_type(form, len(self.described))
        parts = all_records(folder, record)
        self._files, self._mapped = _parts(folder, "data"), dict[int, np.ndarray]()
        numbers = [np.full(len(part), i, np.int32) for i, part in enumerate(parts)]
        which = _last_of_each(records := np.concatenate([np.zeros(0, record), *parts]))
        self.records, self._part = records[which], np.concatenate([np.zeros(0, np.int32), *numbers])[which]
        if (found := len(which)) < len(contents.photos):
            raise UserError(
                f"{folder} has {form.holds} of {found:,} of {len(contents.photos):,} photos; the same "
                f"`python -m mgd {form.command}` goes on with it"
            )
        for file, part in zip(self._files, parts, strict=True):
            if _count_within(part, file.stat().st_size) < len(part):
                raise UserError(f"{file} is cut short; delete {folder} and {form.command} again")

    def places(self, photos: Sequence[str]) -> np.ndarray:
        """Where each of many images stands in the store."""
        place = {photo: i for i, photo in enumerate(self.contents.photos)}
        return np.array([place[photo] for photo in photos], int)

    def find(self, photo: str) -> int:
        """Where an image stands in the store."""
        place = bisect_left(self._names, photo)
        assert self._names[place] == photo
        return place

    def content(self, index: int, kind: int) -> np.ndarray:
        """(bytes,) uint8 of a photo's array, not yet read from the disk: what is sliced out of it is."""
        record = self.records[index]
        start = int(record["offset"]) + int(record["lengths"][:kind].sum())
        part = int(self._part[index])
        if part not in self._mapped:
            self._mapped[part] = np.memmap(self._files[part], np.uint8, "r").view(np.ndarray)
        return self._mapped[part][start : start + int(record["lengths"][kind])]


def photo_name(image: str | Path, root: Path) -> str:
    """How a store names an image: its path below the data's root, where it is there."""
    return str(image).removeprefix(inside(root))


def photo_names(images: Iterable[str], root: Path) -> list[str]:
    """`photo_name` of many."""
    folder = inside(root)
    return [image.removeprefix(folder) for image in images]


def record_type(form: Format, kinds: int) -> np.dtype:
    """What the index holds for each photo."""
    return np.dtype([*form.facts, ("offset", "<u8"), ("lengths", "<u8", (kinds,)), ("check", "<u4")])


def known_facts(form: Format, folder: Path, kinds: int) -> dict[int, tuple[int, ...]]:
    """The facts of the photos that a folder has, by their place in the list; of one that is there twice the last."""
    names = [name for name, _ in form.facts]
    parts = all_records(folder, record_type(form, kinds))
    return {facts[0]: facts for part in parts for facts in part[names].tolist()}


def check_contents(form: Format, folder: Path, contents: Contents) -> list[list[Any]]:
    """The kinds of arrays in a store. Raises UserError naming the first thing that it is of and should not be."""
    path = folder / form.description
    try:
        found = json.loads(read_text(path))
    except ValueError:
        found = None
    wanted = json.loads(json.dumps(contents.to_dict(form.version)))
    if not isinstance(found, dict) or found.get("format") != form.version:
        raise UserError(
            f"{path} is not what this version writes ({form.version}); delete {folder} and {form.command} again"
        )
    if wrong := [key for key in wanted if found.get(key) != wanted[key]]:
        there, here = (_short(value.get(wrong[0])) for value in (found, wanted))
        raise UserError(
            f"{folder} is of another {first_few(wrong)}: {wrong[0]} is {there} there and {here} here; choose another "
            f"{form.setting}, or delete the folder and {form.command} again"
        )
    return list(found["kinds"])


class _Appended:
    """A file that is only appended to."""

    def __init__(self, path: Path, form: Format) -> None:
        self.path, self.form = path, form
        try:
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error}); choose another {form.setting}") from error
        self.size = path.stat().st_size

    def lock(self) -> None:
        """Keep other processes from writing: what two append between each other would be told of wrongly."""
        if locked_by_another(self._file):
            raise UserError(f"{self.path} is being written by another process; wait for its end")

    def cut_off(self, size: int) -> None:
        self._file.truncate(size)
        self.size = size

    def append(self, content: bytes | memoryview) -> None:
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
                f"{self.path} cannot be written ({error}); what was {self.form.done} before stays: free space, then "
                "the same command goes on"
            ) from error


def _parts(folder: Path, what: str) -> list[Path]:
    """The files of the ranks, in one order."""
    return sorted(folder.glob(f"{what}-*.bin"), key=lambda path: (len(path.name), path.name))


def all_records(folder: Path, kind: np.dtype) -> list[np.ndarray]:
    """The records of each rank."""
    return [_whole_records(path, kind) for path in _parts(folder, "index")]


def _whole_records(path: Path, kind: np.dtype) -> np.ndarray:
    """The records before the first that is not whole: one of the last, which were being written."""
    content = path.read_bytes()
    records = np.frombuffer(content[: len(content) // kind.itemsize * kind.itemsize], kind)
    last = max(0, len(records) - 2 * PENDING)
    sound = [int(record["check"]) == _check(record) for record in records[last:]]
    return records[: last + sound.index(False)] if False in sound else records


def _last_of_each(records: np.ndarray) -> np.ndarray:
    """Which record counts for each photo that has one, in the order of the list."""
    order = np.argsort(records["place"], kind="stable")
    places = records["place"][order]
    return order[np.flatnonzero(np.diff(places, append=-1))]


def _check(record: np.ndarray) -> int:
    return zlib.crc32(record.tobytes()[:-4])


def _count_within(records: np.ndarray, size: int) -> int:
    """How many records tell of arrays that lie within the first `size` bytes."""
    return int(np.sum(records["offset"] + records["lengths"].sum(axis=1) <= size))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
