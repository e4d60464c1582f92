"""Images and their labels by the million: in arrays of bytes, which forked loaders share and reading does not copy."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import overload

import numpy as np

from mgd.files import states_of

AT_ONCE = 1000  # strings that are made together: a million would take new memory, which takes as long again


@dataclass(frozen=True)
class Item:
    """One image and, when it has one, its label map. `mgd.data.names` says what its name is."""

    name: str
    image: Path
    label: Path | None


class Texts(Sequence[str]):
    """Strings without NUL, such as paths, in one array.

    A list of Python's strings would be copied by every forked process that looks into it: a look counts references,
    which are written beside each string.
    """

    def __init__(self, texts: "Iterable[str] | bytes") -> None:
        """`texts`: the strings, or all of them in UTF-8, with a NUL after each."""
        if not isinstance(texts, bytes):
            texts = "\0".join([*texts, ""]).encode("utf-8", "surrogateescape")
        self.bytes = texts
        self._ends = np.flatnonzero(np.frombuffer(self.bytes, np.uint8) == 0)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "Texts": ...

    def __getitem__(self, place: int | slice) -> "str | Texts":
        chosen = range(len(self))[place]  # raises IndexError
        if isinstance(chosen, int):
            return self.bytes[self._start(chosen) : self._ends[chosen]].decode("utf-8", "surrogateescape")
        if chosen.step != 1:
            return Texts(list(self)[place])
        return Texts(self.bytes[self._start(chosen.start) : self._start(chosen.stop)] if chosen else b"")

    def _start(self, place: int) -> int:
        return int(self._ends[place - 1]) + 1 if place else 0

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._strings(start) for start in range(0, len(self), AT_ONCE))

    def _strings(self, start: int) -> list[str]:
        """`AT_ONCE` of them from `start` on."""
        part = self.bytes[self._start(start) : self._start(min(start + AT_ONCE, len(self)))]
        return part.decode("utf-8", "surrogateescape").split("\0")[:-1]


class Items(Sequence[Item]):
    """Items in columns; one is made when it is asked for. Go through columns, not items, where there may be a million.

    Attributes:
        names, images, labels: as in `Item`; paths as text, "" for no label.
    """

    def __init__(
        self,
        names: Iterable[str],
        images: Iterable[str],
        labels: Iterable[str] | None = None,
        *,
        states: np.ndarray | None = None,
    ) -> None:
        """`labels`: None for no item with one. `states`: of the images' files, where they are known."""
        self.names, self.images = _texts(names), _texts(images)
        self.labels = Texts(bytes(len(self.names))) if labels is None else _texts(labels)
        self._states = states

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Items":
        rows = [(item.name, str(item.image), "" if item.label is None else str(item.label)) for item in items]
        names, images, labels = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(names, images, labels)

    @property
    def states(self) -> np.ndarray:
        """(N,3) of the images' files as `mgd.files.states_of` tells them, when they were first asked for."""
        if self._states is None:
            self._states = states_of(self.images)
        return self._states

    @property
    def sizes(self) -> np.ndarray:
        """(N,) int64: bytes of the images' files, -1 where there is none."""
        return self.states[:, 0]

    def without_labels(self) -> "Items":
        return Items(self.names, self.images, states=self._states)

    def take(self, places: np.ndarray) -> "Items":
        """The items at these places, in their order."""
        columns = [np.array(list(column), object)[places] for column in (self.names, self.images, self.labels)]
        return Items(*columns, states=None if self._states is None else self._states[places])

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> "Items": ...

    def __getitem__(self, place: int | slice) -> "Item | Items":
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        return _item(self.names[place], self.images[place], self.labels[place])

    def __iter__(self) -> Iterator[Item]:
        return map(_item, self.names, self.images, self.labels)

    def __add__(self, other: "Items") -> "Items":
        pairs = ((self.names, other.names), (self.images, other.images), (self.labels, other.labels))
        columns = [Texts(own.bytes + theirs.bytes) for own, theirs in pairs]
        return Items(*columns, states=np.concatenate([self.states, other.states]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def _texts(texts: Iterable[str]) -> Texts:
    return texts if isinstance(texts, Texts) else Texts(texts)


def _item(name: str, image: str, label: str) -> Item:
    return Item(name, Path(image), Path(label) if label else None)
