"""Lists and files of a data set: what is labelled, unlabelled, validation; how an image and a label map are read."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mgd.config import Data
from mgd.data.classes import Classes, read_classes
from mgd.data.partitions import IMAGE_SUFFIXES, digest, name_of, split
from mgd.errors import UserError
from mgd.files import read_text
from mgd.metrics import IGNORE_INDEX

_INVALID = 254  # marks label values that are no class; classes end below it (`read_classes` sees to that)


@dataclass(frozen=True)
class Item:
    """One image and, when it has one, its label map."""

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


def open_splits(data: Data) -> Splits:
    """Read the lists, see that every file is there, and apply the partition.

    Raises:
        UserError: missing folder, list or file; an empty list; an empty part.
    """
    root = Path(data.root)
    if not root.is_dir():
        raise UserError(f"data.root={data.root}: no folder {root.absolute()}; put the data there or set data.root")
    classes = read_classes(data.classes, root)
    labeled, unlabeled, source = _partition(data, root)
    if data.unlabeled:
        unlabeled += _photos(root / data.unlabeled, root)
    unlabeled = [Item(item.name, item.image, None) for item in unlabeled]
    if not labeled:
        raise UserError(f"{root / data.train_list} gives no labelled image at data.partition={data.partition}")
    sha256 = digest([item.name for item in labeled])
    return Splits(classes, labeled, unlabeled, open_val(data), source, sha256)


def open_val(data: Data) -> list[Item]:
    """The validation list's items. Raises UserError as `open_splits` does."""
    return read_list(Path(data.root) / data.val_list, Path(data.root), data.val_folder, labels=True)


def read_list(path: Path, root: Path, folder: str, *, labels: bool) -> list[Item]:
    """Read a list of any of the three formats (`mgd.config.Data` tells them).

    Raises:
        UserError: the list or a file it names is missing, it is empty, or a line without a label where `labels` asks
            for one.
    """
    if not path.is_file():
        raise UserError(f"{path.absolute()} does not exist; it should list one image a line (see README, data layout)")
    lines = [line for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{path} is empty; it should list one image a line")
    items = [_parse_line(line, root, folder) for line in lines]
    if labels and (bare := next((item for item in items if item.label is None), None)):
        raise UserError(f"{path}: {bare.name} has no label; write image<TAB>label, or put the photo in data.unlabeled")
    files = [file for item in items for file in (item.image, item.label if labels else None) if file is not None]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{path} names {len(missing)} files that do not exist, first {missing[0]}; put them there or take them out"
        )
    return items


def load_image(path: Path) -> np.ndarray:
    """RGB uint8 (H,W,3).

    Raises:
        UserError: the file is missing, truncated, no image, or has 16-bit values.
    """
    image = _open(path)
    if image.mode.startswith("I") or image.mode == "F":
        raise UserError(f"{path} has {image.mode} pixels, expected 8 bits a channel; convert it to 8-bit RGB")
    return np.array(image.convert("RGB"))  # a copy: torch wants arrays that it may write to


def load_label(path: Path, num_classes: int, ignore_values: tuple[int, ...] = ()) -> np.ndarray:
    """Label map uint8 (H,W), values 0..num_classes-1 and 255.

    A palette PNG gives its indices. `ignore_values` become 255.

    Raises:
        UserError: the file is missing, truncated, not a single 8-bit channel, or holds a value that is no class.
    """
    image = _open(path)
    if image.mode not in ("L", "P"):
        raise UserError(f"{path} is a {image.mode} image, expected a label map: an 8-bit PNG, one channel or palette")
    table = np.full(256, _INVALID, np.uint8)
    table[:num_classes] = np.arange(num_classes)
    table[[IGNORE_INDEX, *ignore_values]] = IGNORE_INDEX
    values = np.asarray(image)
    label = table[values]
    if (label == _INVALID).any():
        wrong = sorted(set(np.unique(values)) - set(np.flatnonzero(table != _INVALID)))
        raise UserError(
            f"{path} holds the label value {', '.join(map(str, wrong[:5]))}, expected 0..{num_classes - 1} or "
            f"{IGNORE_INDEX}; correct the labels, data.classes, or name it in data.ignore_values"
        )
    return label


def load_pair(item: Item, data: Data, num_classes: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and label map (None without one) of an item, of the same size.

    Raises:
        UserError: as `load_image` and `load_label`, or when the two have different sizes.
    """
    image = load_image(item.image)
    if item.label is None:
        return image, None
    label = load_label(item.label, num_classes, data.ignore_values)
    if image.shape[:2] != label.shape:
        raise UserError(
            f"{item.label} is {label.shape[1]}x{label.shape[0]} but its image {item.image} is "
            f"{image.shape[1]}x{image.shape[0]}; replace one of them or take both out of the list"
        )
    return image, label


def _partition(data: Data, root: Path) -> tuple[list[Item], list[Item], str]:
    """(labelled, unlabelled, where from): the user's own lists when they are there, else every r-th of the list."""
    if data.partition_lists:
        pattern = data.partition_lists.replace("{ratio}", str(data.partition))
        paths = [root / pattern.replace("{part}", part) for part in ("labeled", "unlabeled")]
        if any(path.is_file() for path in paths):
            return (
                read_list(paths[0], root, data.train_folder, labels=True),
                read_list(paths[1], root, data.train_folder, labels=False),
                f"{paths[0]} and {paths[1].name}",
            )
    path = root / data.train_list
    labeled, unlabeled = split(read_list(path, root, data.train_folder, labels=True), data.partition)
    return labeled, unlabeled, f"one in {data.partition} of {path}"


def _photos(path: Path, root: Path) -> list[Item]:
    """Photos of a folder, at any depth and in order of name, or of a list."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise UserError(f"data.unlabeled: {path.absolute()} has no image ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return [Item(file.stem, file, None) for file in files]
    if not path.is_file():
        raise UserError(f"data.unlabeled: {path.absolute()} does not exist; name a list or a folder of photos")
    return read_list(path, root, "", labels=False)


def _parse_line(line: str, root: Path, folder: str) -> Item:
    image, tab, label = line.partition("\t")
    image, label = image.strip().lstrip("/"), label.strip().lstrip("/")  # Cityscapes lists begin with a slash
    if tab and label:
        return Item(name_of(image), root / image, root / label)
    if Path(image).suffix.lower() in IMAGE_SUFFIXES:
        return Item(name_of(image), root / image, None)
    base = root / folder
    return Item(image, base / "image" / f"{image}.jpg", base / "label" / f"{image}.png")


def _open(path: Path) -> Image.Image:
    """Open and decode fully, so that a truncated file fails here."""
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; put it there or take it out of the list") from None
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises on broken files
        raise UserError(f"{path} cannot be decoded ({error}); replace the file or take it out of the list") from error
    return image
