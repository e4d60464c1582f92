"""What every reader of an annotation tool's export returns: photos, each with its regions; and what readers share."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from mgd.data.classes import Classes, read_classes, voc_color
from mgd.data.images import IMAGE_SUFFIXES
from mgd.data.names import in_any_form, one_form
from mgd.errors import UserError, first_few
from mgd.files import read_text

PARTS = {
    **dict.fromkeys(("train", "training", "trainset", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}  # words in the names of files and folders
IGNORE = "__ignore__"  # labelme's name for "look away"; here the name of ignored pixels in every format
Size = tuple[int, int]  # height, width
Color = tuple[int, int, int]
Region = tuple[str, np.ndarray]  # a class's name (or IGNORE) and where it is: (H,W) bool
Regions = Callable[[Size], Iterable[Region]]  # of a photo of that size; a later region lies on top


class Photo(NamedTuple):
    """One photo with what was drawn on it."""

    name: str  # path below the data set's images/, without suffix
    image: Path
    source: Path  # the file that holds what was drawn
    regions: Regions | None  # None: nobody looked at this photo yet
    size: Size | None = None  # as the export says
    part: str = ""  # train, val, test, or not told
    key: Path | None = None  # a file that tells what is in `source`


@dataclass(frozen=True)
class Export:
    """An export, opened: no mask is drawn until `Photo.regions` is called, in a worker."""

    names: tuple[str, ...]
    photos: tuple[Photo, ...]
    covers: bool  # every pixel of a mask has a class, so that nothing is left unmarked
    colors: dict[str, Color] = field(default_factory=dict)  # of the classes, where the format has them
    table: tuple[tuple[str, Color], ...] = ()  # what colours of masks mean, where they mean classes


class Labelled(NamedTuple):
    """A photo with its label map, on the way back to an annotation tool."""

    name: str
    image: Path
    label: np.ndarray  # (H,W) uint8, 255 is ignored
    marked: list[Region]  # what a tool that draws regions gets; what is left is background, or else ignored


def named_classes(text: str) -> Classes:
    """Classes as --classes names them: `voc` and the like, a CSV file, or names separated by commas."""
    if "," not in text or Path(text).is_file():
        return read_classes(Path(text).name, Path(text).parent)
    names = tuple(name.strip() for name in text.split(","))
    if len(set(names)) < len(names) or "" in names:
        raise UserError(f"--classes {text} names a class twice or has an empty name; correct it")
    return Classes(names, tuple(voc_color(i) for i in range(len(names))))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a person says about an export; each format's reader takes what concerns it."""

    images: Path | None = None  # where the photos are, when not where the tool puts them
    label_pattern: str = ""  # of masks beside photos, such as {stem}_mask.png
    label_map: tuple[str, ...] = ()  # values of an index mask: 255=1, 1..8=0..7, 0=ignore
    classes: str = ""  # the classes in their order: a CSV file, or names separated by commas
    colors: Path | None = None  # the colour table of RGB masks
    tolerance: int = 0  # how far a channel of an RGB mask may be off its class's colour
    line_width: float = 10.0  # pixels, of labelme's lines; its points are discs as wide
    predictions: bool = False  # Label Studio: take predictions where nobody annotated
    skip_missing: bool = False  # photos that are not there are left out later, with those that cannot be read


def class_name(name: Any, file: Path) -> str:
    """A class's name as a file gives it. Raises UserError where it gives none."""
    if name is None:
        raise UserError(f"{file} has a class without a name (null); give it one")
    return str(name)


def read_json(path: Path, expected: str) -> Any:
    """The content of a JSON file. Raises UserError when it is none."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no JSON ({error}); expected {expected}") from error


@contextmanager
def understood(path: Path, expected: str) -> Iterator[None]:
    """Turn what a file of another structure than `expected` raises into one sentence."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} is not what was named: expected {expected}, found {reason}; {guess(path)}") from error


def guess(path: Path) -> str:
    """Which --format a file or folder looks like, as a remedy."""
    found = _looks_like(path)
    return f"it looks like --format {found}" if found else "see `mgd prepare labels --help` for the formats"


def _looks_like(path: Path) -> str:
    if path.is_dir():
        for name, kind in (("labelmap.txt", "cvat"), ("data.yaml", "yolo"), ("meta.json", "supervisely")):
            if (path / name).is_file():
                return kind
        return next((kind for file in sorted(path.rglob("*.json"))[:5] if (kind := _looks_like(file))), "")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    if isinstance(content, list):
        return "label-studio" if content and isinstance(content[0], dict) and "data" in content[0] else ""
    if not isinstance(content, dict):
        return ""
    if "annotations" in content and "images" in content:
        things = content["annotations"]
        return "coco-panoptic" if things and "segments_info" in things[0] else "coco"
    keys = {"shapes": "labelme", "objects": "supervisely", "classes": "supervisely"}
    return next((kind for key, kind in keys.items() if key in content), "")


def photo_name(path: str) -> str:
    """A path in an export -> a photo's name. Raises UserError for one that leads out of the data set's folder."""
    pure = PurePosixPath(path.replace("\\", "/"))
    parts = [part for part in pure.parts if part not in ("/", ".")]
    if ".." in parts or not parts or any(mark in path for mark in "\t\n\r"):
        raise UserError(f"an image of the export is called {path!r}, expected a path below the export's folder")
    name = PurePosixPath(*parts)
    return (name.with_suffix("") if name.suffix.lower() in IMAGE_SUFFIXES else name).as_posix()


def part_of(name: str) -> str:
    """train, val, test as the name of a folder or file tells it in a word of its own (instances_val2017); else ""."""
    return next((PARTS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in PARTS), "")


class Photos:
    """Finds the photos of an export: by their path below one of some folders, else by the file's name alone.

    By its name alone a file is found that lies in another folder only where no folder is told, or none is there. Two
    forms of one Unicode text are one path.
    """

    def __init__(self, folders: Iterable[Path], source: Path, *, skip_missing: bool = False) -> None:
        self.folders, self.source = [folder for folder in folders if folder.is_dir()], source
        self.skip_missing = skip_missing and bool(self.folders)
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, *paths: str) -> Path:
        """The file of an image that the export calls `paths[0]`, as on any system; its suffix may be left out.

        With `skip_missing` a path where there is no file, when none is to be found.

        Args:
            paths: further ones are what it may be called instead.

        Raises:
            UserError: there is none, or several have this name.
        """
        for path in paths:
            if found := self._found(path):
                return found
        path = paths[-1].replace("\\", "/")
        if self.skip_missing:
            return self.folders[0] / path.lstrip("/")
        named = self._named(path)
        looked = first_few(self.folders) or "no folder"
        other = f" (there is {first_few(named)}, in another folder)" if named else ""
        raise UserError(
            f"{self.source} names {path}, which is not in {looked}{other}; say where the photos are: --images"
        )

    def _found(self, given: str) -> Path | None:
        path = given.replace("\\", "/")
        for folder in self.folders:
            for name in dict.fromkeys((given, path)):
                file = folder / name.lstrip("/")
                if file.is_file() or ((file := in_any_form(file) or file).is_file()):
                    return file
        found = self._known(path.lstrip("/")) or [file for file in self._named(path) if self._may_be(file, path)]
        if len(found) > 1:
            raise UserError(f"{self.source} names {path}, which is {first_few(found)}; say where with --images")
        return found[0] if found else None

    def _named(self, path: str) -> list[Path]:
        """Photos of the name of `path`, in any folder."""
        return self._known(PurePosixPath(path).name)

    def _known(self, key: str) -> list[Path]:
        if self._by_name is None:
            self._by_name = self._index()
        return self._by_name.get(one_form(key), [])

    def _may_be(self, file: Path, path: str) -> bool:
        """Whether a file of the name of `path` may be it: of their folders one's are the last of the other's."""
        told = PurePosixPath(one_form(path).lstrip("/")).parts[:-1][::-1]
        inside = (one_form(str(file.relative_to(folder))) for folder in self.folders if file.is_relative_to(folder))
        there = (PurePosixPath(own).parts[:-1][::-1] for own in inside)
        return any(all(a == b for a, b in zip(told, own, strict=False)) for own in there)

    def name_of(self, image: Path) -> str:
        """A found photo's name: its path below the folder that it was found in."""
        folder = next(folder for folder in self.folders if image.is_relative_to(folder))
        return photo_name(image.relative_to(folder).as_posix())

    def _index(self) -> dict[str, list[Path]]:
        """Every photo by its path and its name, each with and without suffix."""
        keys: dict[str, set[Path]] = {}
        for folder in self.folders:
            for file in filter(is_photo, folder.rglob("*")):
                path = file.relative_to(folder)
                for key in {path.as_posix(), path.with_suffix("").as_posix(), file.name, file.stem}:
                    keys.setdefault(one_form(key), set()).add(file)
        return {key: sorted(files) for key, files in keys.items()}


def photos_of(reading: Reading, usual: Iterable[Path], source: Path) -> Photos:
    """The photos that `source` names: where `reading` says, else in the usual folders."""
    return Photos([reading.images] if reading.images else usual, source, skip_missing=reading.skip_missing)


def is_photo(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and file.is_file() and not file.name.startswith(".")


def need(path: Path, expected: str) -> Path:
    """`path`, a file or folder that the format must have. Raises UserError."""
    if not path.exists():
        where = path.parent if path.parent.exists() else path
        raise UserError(f"{path} does not exist; expected {expected}; {guess(where)}")
    return path
