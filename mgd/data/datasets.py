"""Lists and folders of a data set: what is labelled, unlabelled, validation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from mgd.config import Data
from mgd.data.classes import Classes, read_classes
from mgd.data.folders import pairs_in, photos_in
from mgd.data.images import IMAGE_SUFFIXES, load_image, load_label
from mgd.data.label_map import value_table
from mgd.data.names import below, digest, locate, name_of, split_line
from mgd.data.transforms import shrink
from mgd.errors import UserError, first_few
from mgd.files import read_lines

T = TypeVar("T")
PARTS = ("labeled", "unlabeled")
Problems = list[UserError] | None  # takes what is wrong; None: the first is raised


@dataclass(frozen=True)
class Item:
    """One image and, when it has one, its label map. `mgd.data.names` says what its name is."""

    name: str
    image: Path
    label: Path | None


@dataclass(frozen=True)
class Splits:
    """A data set, partitioned. Items of `unlabeled` have no label, whatever is on the disk."""

    classes: Classes
    labeled: list[Item]
    unlabeled: list[Item]
    val: list[Item]
    source: str = ""  # what the partition was made from, for the log
    sha256: str = ""  # of the labelled images' names: equal in runs that have the same labels


def open_splits(data: Data, problems: Problems = None) -> Splits:
    """Read the lists, see that every file is there, and apply the partition.

    Args:
        problems: where given, all that is wrong is put there, and a part that cannot be read is empty.

    Raises:
        UserError: missing folder, list or file; an empty list; an empty part.
    """
    root = Path(data.root)
    classes, source = Classes((), ()), ""
    labeled: list[Item] = []
    unlabeled: list[Item] = []
    val: list[Item] = []
    if not root.is_dir():
        raise UserError(f"data.root={data.root}: no folder {root.absolute()}; put the data there or set data.root")
    with collect_errors(problems):
        value_table(data.label_map)  # wrong ones are told here and not by every label
    with collect_errors(problems):
        classes = read_classes(data.classes, root)
    with collect_errors(problems):
        labeled, unlabeled, source = _partition(data, root, problems)
    with collect_errors(problems):
        unlabeled = unlabeled + (_photos(data, root, problems) if data.unlabeled else [])
    with collect_errors(problems):
        val = open_val(data, problems)
    unlabeled = [Item(item.name, item.image, None) for item in unlabeled]
    return Splits(classes, labeled, unlabeled, val, source, digest([item.name for item in labeled]))


def hidden_truth(data: Data) -> list[Item]:
    """The unlabelled part of the training list, with the labels that are on the disk: to look at, not to learn from."""
    return [item for item in _partition(data, Path(data.root), None)[1] if item.label and item.label.is_file()]


@contextmanager
def collect_errors(problems: Problems) -> Iterator[None]:
    """Put the block's error into `problems`; raise it where there are none."""
    try:
        yield
    except UserError as error:
        if problems is None:
            raise
        problems.append(error)


def open_val(data: Data, problems: Problems = None) -> list[Item]:
    """The validation list's items. Raises UserError as `open_splits` does."""
    path, root = Path(data.root) / data.val_list, Path(data.root)
    return read_list(path, root, data.val_folder, labels=True, pattern=data.label_pattern, problems=problems)


def read_list(
    path: Path, root: Path, folder: str, *, labels: bool, pattern: str = "", problems: Problems = None
) -> list[Item]:
    """Read a list of any of the three formats (`mgd.config.Data` tells them), or a folder of pairs.

    Args:
        pattern: of the labels in a folder, as `pairs_in` takes it.

    Raises:
        UserError: the list or a file it names is missing, it is empty, or a line without a label where `labels` asks
            for one.
    """
    if path.is_dir():
        return _paired(path, root, pattern, problems)
    if not path.is_file():
        raise UserError(f"{path.absolute()} does not exist; it should list one image a line (see README, data layout)")
    if not (lines := read_lines(path)):
        raise UserError(f"{path} is empty; it should list one image a line")
    items = [_parse_line(line, root, folder) for line in lines]
    with collect_errors(problems):
        if labels and (bare := [item.name for item in items if item.label is None]):
            remedy = f"write image<TAB>label, or put the photo in data.unlabeled{_hint(lines)}"
            raise UserError(f"{path}: {first_few(bare)} has no label; {remedy}", kind="pairs")
    files = [file for item in items for file in (item.image, item.label if labels else None) if file is not None]
    with collect_errors(problems):
        if missing := [file for file in files if not file.is_file()]:
            found = f"{path} names {len(missing):,} files that do not exist: {first_few(missing)}"
            raise UserError(f"{found}; put them there or take them out{_hint(lines)}", kind="missing")
    return items


def split(items: Sequence[T], ratio: int) -> tuple[list[T], list[T]]:
    """(labelled, unlabelled) of partition 1/ratio: `items[::ratio]` and the rest, both in the list's order.

    Raises:
        UserError: `ratio` below 1.
    """
    return divide(items, range(0, len(items), checked(ratio)))


def divide(items: Sequence[T], labeled: Sequence[int]) -> tuple[list[T], list[T]]:
    """(the items at these places, the others), both in the list's order."""
    chosen = set(labeled)
    return [item for i, item in enumerate(items) if i in chosen], [x for i, x in enumerate(items) if i not in chosen]


def checked(ratio: int) -> int:
    """`ratio`, which must be 1 or more."""
    if ratio < 1:
        raise UserError(f"data.partition={ratio} must be 1 or more: 1/partition of the images is labelled")
    return ratio


def load_pair(item: Item, data: Data, num_classes: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and label map (None without one) of an item, of the same size.

    Raises:
        UserError: as `load_image` and `load_label`, or when the two have different sizes.
    """
    image = load_image(item.image)
    if item.label is None:
        return image, None
    label = load_label(item.label, num_classes, data.ignore_values, data.label_map)
    if image.shape[:2] != label.shape:
        turned = " when upright as its EXIF says" if image.shape[1::-1] == label.shape else ""
        raise UserError(
            f"{item.label} is {label.shape[1]}x{label.shape[0]} but its image {item.image} is "
            f"{image.shape[1]}x{image.shape[0]}{turned}; replace one of them or take both out of the list",
            kind="size",
        )
    return image, label


def load_small(item: Item, data: Data, num_classes: int) -> tuple[np.ndarray, np.ndarray | None]:
    """As `load_pair`, shrunk to `data.short_side`: what training cuts its crops out of."""
    image, label = load_pair(item, data, num_classes)
    return shrink(image, data.short_side), None if label is None else shrink(label, data.short_side, nearest=True)


def partition_lists(data: Data) -> list[Path]:
    """The user's own labelled and unlabelled list of a partition; none when neither is there."""
    pattern = data.partition_lists.replace("{ratio}", str(data.partition))
    paths = [Path(data.root) / pattern.replace("{part}", part) for part in PARTS]
    return paths if data.partition_lists and any(path.is_file() for path in paths) else []


def _partition(data: Data, root: Path, problems: Problems) -> tuple[list[Item], list[Item], str]:
    """(labelled, unlabelled, where from): the user's own lists when they are there, else every r-th of the list."""
    if paths := partition_lists(data):
        labeled, unlabeled = (
            read_list(path, root, data.train_folder, labels=part == "labeled", problems=problems)
            for path, part in zip(paths, PARTS, strict=True)
        )
        return labeled, unlabeled, f"{paths[0]} and {paths[1].name}"
    path = root / data.train_list
    items = read_list(path, root, data.train_folder, labels=True, pattern=data.label_pattern, problems=problems)
    return *split(items, data.partition), f"one in {data.partition} of {path}"


def _photos(data: Data, root: Path, problems: Problems) -> list[Item]:
    """Photos of a folder or of a list."""
    path = root / data.unlabeled
    if path.is_dir():
        return [Item(name_of(below(root, file)), file, None) for file in photos_in(path, data.label_pattern)]
    if not path.is_file():
        raise UserError(f"data.unlabeled: {path.absolute()} does not exist; name a list or a folder of photos")
    return read_list(path, root, "", labels=False, problems=problems)


def _paired(folder: Path, root: Path, pattern: str, problems: Problems) -> list[Item]:
    """The pairs of a folder; what is wrong with the others is raised, or goes to `problems`."""
    pairs, wrong = pairs_in(folder, pattern)
    for error in wrong:
        with collect_errors(problems):
            raise error
    return [Item(name_of(below(root, image)), image, label) for image, label in pairs]


def _parse_line(line: str, root: Path, folder: str) -> Item:
    image, label = split_line(line)
    if label:
        return Item(name_of(image), locate(image, root), locate(label, root))
    if Path(image).suffix.lower() in IMAGE_SUFFIXES:
        return Item(name_of(image), locate(image, root), None)
    base = root / folder
    return Item(name_of(image), locate(f"image/{image}.jpg", base), locate(f"label/{image}.png", base))


def _hint(lines: Sequence[str]) -> str:
    """What a list seems to have in place of tabs and slashes, for the end of a sentence."""
    first = lines[0]
    if "\t" not in first:
        for sign, name in {";": "a semicolon", ",": "a comma"}.items():
            if sum(Path(part.strip()).suffix.lower() in IMAGE_SUFFIXES for part in first.split(sign)) > 1:
                return f". The first line has {name} between image and label; expected a tab"
    return ". The first line has backslashes; write / for \\" if "\\" in first else ""
