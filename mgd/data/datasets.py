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
from mgd.data.images import is_turned, load_image, load_label
from mgd.data.items import Item, Items
from mgd.data.label_map import value_table, with_ignored
from mgd.data.names import are_plain_images, below, digest, inside, is_image, located, path_name, split_line
from mgd.data.transforms import shrink
from mgd.errors import UserError, first_few
from mgd.files import read_lines, states_of

T = TypeVar("T")
PARTS = ("labeled", "unlabeled")
OFFICIAL_LISTS = {  # data.classes -> the official repository's lists: every r-th line, hence not needed
    "voc": "subset_train_aug/train_aug_{part}_1-{ratio}.txt",
    "city": "config_new/subset_train/train_aug_{part}_1-{ratio}.txt",
}
Problems = list[UserError] | None  # takes what is wrong; None: the first is raised


@dataclass(frozen=True)
class Splits:
    """A data set, partitioned. Items of `unlabeled` have no label, whatever is on the disk."""

    classes: Classes
    labeled: Items
    unlabeled: Items
    val: Items
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
    labeled = unlabeled = val = Items.of(())
    if not root.is_dir():
        raise UserError(f"data.root={data.root}: no folder {root.absolute()}; put the data there or set data.root")
    with collect_errors(problems):
        value_table(with_ignored(data.label_map, data.ignore_values))  # told here and not by every label
    with collect_errors(problems):
        classes = read_classes(data.classes, root)
    with collect_errors(problems):
        labeled, unlabeled, source = _partition(data, root, problems)
    with collect_errors(problems):
        unlabeled = unlabeled + _photos(data, root, problems) if data.unlabeled else unlabeled
    with collect_errors(problems):
        val = open_val(data, problems)
    return Splits(classes, labeled, unlabeled.without_labels(), val, source, digest(labeled.names))


def hidden_truth(data: Data) -> Items:
    """The unlabelled part of the training list, with the labels that are on the disk: to look at, not to learn from."""
    items = _partition(data, Path(data.root), None)[1]
    return items.take(np.flatnonzero(states_of(items.labels)[:, 0] >= 0))


@contextmanager
def collect_errors(problems: Problems) -> Iterator[None]:
    """Put the block's error into `problems`; raise it where there are none."""
    try:
        yield
    except UserError as error:
        if problems is None:
            raise
        problems.append(error)


def open_val(data: Data, problems: Problems = None) -> Items:
    """The validation list's items. Raises UserError as `open_splits` does."""
    path, root = Path(data.root) / data.val_list, Path(data.root)
    return read_list(path, root, data.val_folder, labels=True, pattern=data.label_pattern, problems=problems)


def read_list(
    path: Path, root: Path, folder: str, *, labels: bool, pattern: str = "", problems: Problems = None
) -> Items:
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
    places = inside(root), inside(root / folder)
    if are_plain_images(lines):
        names, images, targets = lines, [places[0] + line for line in lines], [""] * len(lines)
    else:
        names, images, targets = map(list, zip(*(_parse_line(line, *places) for line in lines), strict=True))
    with collect_errors(problems):
        if labels and not all(targets):
            bare = first_few(name for name, label in zip(names, targets, strict=True) if not label)
            remedy = f"write image<TAB>label, or put the photo in data.unlabeled{_hint(lines)}"
            raise UserError(f"{path}: {bare} has no label; {remedy}", kind="pairs")
    items = Items(names, images, targets, states=states_of(images))
    with collect_errors(problems):
        if missing := _missing(items, labels=labels):
            found = f"{path} names {len(missing):,} files that do not exist: {first_few(missing)}"
            raise UserError(f"{found}; put them there or take them out{_hint(lines)}", kind="missing")
    return items


def _missing(items: Items, *, labels: bool) -> list[str]:
    """Images, and labels where asked for, that are not there; in the list's order."""
    gone = [(2 * int(i), items.images[int(i)]) for i in np.flatnonzero(items.sizes < 0)]
    if labels:
        wanted = [(2 * i + 1, label) for i, label in enumerate(items.labels) if label]
        sizes = states_of([label for _, label in wanted])[:, 0]
        gone += [place for place, size in zip(wanted, sizes, strict=True) if size < 0]
    return [file for _, file in sorted(gone)]


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
        turned = " when upright as its EXIF says" if is_turned(item.image) else ""
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
    """The user's own labelled and unlabelled list of a partition; none where it is every r-th of the training list.

    Raises:
        UserError: lists are named, other than the official ones, and neither is there.
    """
    pattern = data.partition_lists.replace("{ratio}", str(data.partition))
    paths = [Path(data.root) / pattern.replace("{part}", part) for part in PARTS]
    if not data.partition_lists:
        return []
    if any(path.is_file() for path in paths):
        return paths
    if data.partition_lists in OFFICIAL_LISTS.values():
        return []
    raise UserError(
        f"data.partition_lists={data.partition_lists}: neither {paths[0]} nor {paths[1]} exists; make them with mgd "
        f"partition {Path(data.root) / data.train_list} --ratio {data.partition}, or leave it empty to label one in "
        f"{data.partition} of that list"
    )


def _partition(data: Data, root: Path, problems: Problems) -> tuple[Items, Items, str]:
    """(labelled, unlabelled, where from): the user's own lists when they are there, else every r-th of the list."""
    if paths := partition_lists(data):
        labeled, unlabeled = (
            read_list(path, root, data.train_folder, labels=part == "labeled", problems=problems)
            for path, part in zip(paths, PARTS, strict=True)
        )
        return labeled, unlabeled, f"{paths[0]} and {paths[1].name}"
    path = root / data.train_list
    items = read_list(path, root, data.train_folder, labels=True, pattern=data.label_pattern, problems=problems)
    chosen, others = (items.take(np.array(some, int)) for some in split(range(len(items)), data.partition))
    return chosen, others, f"one in {data.partition} of {path}"


def _photos(data: Data, root: Path, problems: Problems) -> Items:
    """Photos of a folder or of a list."""
    path = root / data.unlabeled
    if path.is_dir():
        return Items.of(Item(path_name(below(root, file)), file, None) for file in photos_in(path, data.label_pattern))
    if not path.is_file():
        raise UserError(f"data.unlabeled: {path.absolute()} does not exist; name a list or a folder of photos")
    return read_list(path, root, "", labels=False, problems=problems)


def _paired(folder: Path, root: Path, pattern: str, problems: Problems) -> Items:
    """The pairs of a folder; what is wrong with the others is raised, or goes to `problems`."""
    pairs, wrong = pairs_in(folder, pattern)
    for error in wrong:
        with collect_errors(problems):
            raise error
    return Items.of(Item(path_name(below(root, image)), image, label) for image, label in pairs)


def _parse_line(line: str, root: str, folder: str) -> tuple[str, str, str]:
    """(name, image, label) of a line, "" for no label.

    Args:
        root, folder: what paths in the root, and those of bare names, begin with (`mgd.data.names.inside`).
    """
    image, label = split_line(line)
    if label:
        return path_name(image), located(image, root), located(label, root)
    if is_image(image):
        return path_name(image), located(image, root), ""
    return path_name(image), located(f"image/{image}.jpg", folder), located(f"label/{image}.png", folder)


def _hint(lines: Sequence[str]) -> str:
    """What a list seems to have in place of tabs and slashes, for the end of a sentence."""
    first = lines[0]
    if "\t" not in first:
        for sign, name in {";": "a semicolon", ",": "a comma"}.items():
            if sum(is_image(part.strip()) for part in first.split(sign)) > 1:
                return f". The first line has {name} between image and label; expected a tab"
    return ". The first line has backslashes; write / for \\" if "\\" in first else ""
