"""Every image and label map decoded, on all cores: what is broken, does not fit, occurs twice, or is never seen."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mgd.check.findings import Finding
from mgd.check.labels import count_values, ignored_values, judge
from mgd.config import Data
from mgd.data.classes import Classes
from mgd.data.datasets import Splits, load_pair
from mgd.data.images import read_indices, read_palette
from mgd.data.items import Item
from mgd.data.transforms import shrink
from mgd.errors import SHOWN, UserError, first_few
from mgd.metrics import IGNORE_INDEX
from mgd.parallel import in_order
from mgd.progress import Progress

Places = dict[bytes, list[tuple[str, Path]]]  # content of a file -> the parts and paths that have it

UNSEEN = {
    "labelled": "label some, or choose other images with mgd partition --scheme balanced",
    "validation": "they get no score there; add images that show them",
}


class Inspected(NamedTuple):
    """What reading one item's files gave."""

    kind: str  # of what is wrong; "" when nothing is
    text: str
    values: np.ndarray  # (256,) int64, the label's pixels of each value
    digest: bytes  # of the image file's content
    memory: int  # bytes of the arrays that `data.cache` would keep


def read_files(data: Data, splits: Splits, *, progress: bool) -> tuple[list[Finding], int]:
    """(findings, bytes that `data.cache` keeps). Files that do not exist are left to who reads the lists."""
    parts = {"labelled": splits.labeled, "unlabelled": splits.unlabeled, "validation": splits.val}
    items = [(part, item) for part, chosen in parts.items() for item in chosen]
    problems: dict[str, list[str]] = defaultdict(list)
    values = {part: np.zeros(256, np.int64) for part in parts}
    where: Places = defaultdict(list)
    good = memory = 0
    inspected = in_order(partial(inspect, data, splits.classes), (item for _, item in items))
    bar = Progress(inspected, "reading", len(items), unit="image", disable=not progress or None)
    for (part, item), one in zip(items, bar, strict=True):
        if one.kind:
            problems[one.kind].append(one.text)
            continue
        good += 1
        memory += one.memory if part != "validation" else 0
        values[part] += one.values
        where[one.digest].append((part, item.image))
    problems.pop("missing", None)  # told with the lists
    found = [*_rows(problems)]
    for part in ("labelled", "validation"):
        found += _classes(part, values[part], data, splits.classes)
    found += _twins(where)
    if good:
        found.insert(0, Finding("ok", "files", f"{good:,} of {len(items):,} images, and their labels, decoded"))
    return found, memory


def inspect(data: Data, classes: Classes, item: Item) -> Inspected:
    """Read an item's files as training does. Without classes, which are then told to be missing, any value goes."""
    values = np.zeros(256, np.int64)
    try:
        image, label = load_pair(item, data, len(classes) or IGNORE_INDEX - 1)
        if label is not None and item.label is not None:
            values = count_values(read_indices(item.label) if ignored_values(data) else label)
            _check_label(item.label, _of_classes(values, data), classes, mapped=bool(data.label_map))
    except UserError as error:
        return Inspected(error.kind, str(error), values, b"", 0)
    small = shrink(image, data.short_side) if data.cache else image
    memory = small.nbytes * (3 if label is None else 4) // 3
    return Inspected("", "", values, hashlib.blake2b(item.image.read_bytes(), digest_size=16).digest(), memory)


def _check_label(path: Path, present: np.ndarray, classes: Classes, *, mapped: bool) -> None:
    """What training would not mind: a label of nothing, and a palette that contradicts the indices."""
    if not present.any():
        raise UserError(f"{path} has no pixel of a class; correct it or take it out of the list", kind="empty")
    palette = None if mapped else read_palette(path)  # colours of values that mean other classes tell nothing
    if palette is None:
        return
    class_of = {color: i for i, color in enumerate(classes.colors) if classes.colors.count(color) == 1}
    for index in np.flatnonzero(present[: len(palette)]):
        drawn = class_of.get(tuple(palette[index].tolist()))
        if drawn is not None and drawn != index:
            raise UserError(
                f"{path} is a palette image whose index {index} has the colour of class {drawn} "
                f"({classes.names[drawn]}), and the index is what counts; write class indices, or correct data.classes",
                kind="palette",
            )


def _rows(problems: dict[str, list[str]]) -> Iterator[Finding]:
    for kind, all_of_them in problems.items():
        texts = [*dict.fromkeys(all_of_them)]  # what is wrong with the config is so for every file
        yield from (Finding("error", kind, text) for text in texts[:SHOWN])
        if len(texts) > SHOWN:
            yield Finding("error", kind, f"and {len(texts) - SHOWN:,} more files of this kind")


def _of_classes(values: np.ndarray, data: Data) -> np.ndarray:
    """(256,) bool: the values that occur and are not ignored."""
    present = values > 0
    present[[IGNORE_INDEX, *ignored_values(data)]] = False
    return present


def _classes(part: str, values: np.ndarray, data: Data, classes: Classes) -> Iterator[Finding]:
    """Which values a part's labels hold, and which classes they lack."""
    if not values.any() or not classes:
        return
    judged = [*judge(f"the labels of the {part} part", values, classes, ignored_values(data))]
    yield from judged
    seen = _of_classes(values, data)
    absent = [name for i, name in enumerate(classes.names) if not seen[i]]
    misread = values[IGNORE_INDEX] and any(finding.level == "warning" for finding in judged)
    remedy = "see the row above" if misread else UNSEEN[part]
    if absent:
        yield Finding("warning", "classes", f"never seen in the {part} part: {first_few(absent)}; {remedy}")
    else:
        yield Finding("ok", "classes", f"all {len(classes)} are seen in the {part} part")


def _twins(where: Places) -> Iterator[Finding]:
    """Files of the same content under several names; the same file in two parts is told with the lists."""
    twins = [sorted(set(places)) for places in where.values() if len({path for _, path in places}) > 1]
    bad = [t for t in twins if len({part for part, _ in t}) > 1 and any(part == "validation" for part, _ in t)]
    if bad:
        yield Finding("error", "twins", f"the same photo in two parts: {_equal(bad)}; keep it in one")
    if harmless := [places for places in twins if places not in bad]:
        yield Finding("warning", "twins", f"the same photo twice: {_equal(harmless)}; keep one")
    if not twins:
        yield Finding("ok", "twins", "no two files have the same content")


def _equal(twins: Iterable[list[tuple[str, Path]]]) -> str:
    return first_few(" = ".join(f"{path} ({part})" for part, path in places) for places in twins)
