"""What a run is trained on, as its state records it, and how two such records differ."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from mgd.config import Experiment, Taught
from mgd.data.datasets import Splits
from mgd.data.items import Items
from mgd.objectives import find_teacher, teacher_paths
from mgd.weights import end_of

VALIDATION = "validation images"
PARTS = ("labelled images", "unlabelled images", VALIDATION)
Inputs = dict[str, Any]  # plain values, as a checkpoint may hold them


def inputs_of(config: Experiment, splits: Splits) -> Inputs:
    """A record of classes, images and teachers that is equal where a run would be trained on the same.

    An image counts as the same by its name and its file's size; a label map, a list's order and a teacher by content.

    Raises:
        UserError: a teacher is missing.
    """
    teachers = teacher_paths(config.method) if isinstance(config.method, Taught) else {}
    return {
        **data_of(splits),
        "teachers": {name: end_of(find_teacher(files, name)) for name, files in teachers.items()},
    }


def data_of(splits: Splits) -> Inputs:
    """Of the record, classes and images."""
    items = (splits.labeled, splits.unlabeled, splits.val)
    parts = {part: record_of(of) for part, of in zip(PARTS, items, strict=True)}
    return {"classes": list(splits.classes.names), **parts}


def record_of(items: Items) -> dict[str, Any]:
    """Of the record, what it says of a list."""
    return {"count": len(items), "digest": _digest(items)}


def changes(old: Inputs, new: Inputs) -> list[str]:
    """What differs, in words."""
    return [*_class_changes(old["classes"], new["classes"]), *_part_changes(old, new), *_teacher_changes(old, new)]


def same_validation(old: Inputs, new: Inputs) -> bool:
    """Whether scores can be held against each other."""
    return all(old[key] == new[key] for key in ("classes", VALIDATION))


def _class_changes(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    if len(old) != len(new):
        yield f"{len(old)} classes, now {len(new)}"
    elif old != new:
        index = next(i for i, (one, other) in enumerate(zip(old, new, strict=True)) if one != other)
        yield f"class {index} was {old[index]}, now {new[index]}"


def _part_changes(old: Inputs, new: Inputs) -> Iterator[str]:
    for part in PARTS:
        if old[part] != new[part]:
            now = f"{new[part]['count']:,}" if old[part]["count"] != new[part]["count"] else "as many others"
            yield f"{old[part]['count']:,} {part}, now {now}"


def _teacher_changes(old: Inputs, new: Inputs) -> Iterator[str]:
    for name in sorted(old["teachers"].keys() | new["teachers"].keys()):
        if old["teachers"].get(name) != new["teachers"].get(name):
            yield f"another {name} teacher"


def _digest(items: Items) -> str:
    """Of names, sizes of images and contents of label maps, in order."""
    with ThreadPoolExecutor(16) as pool:  # on a network drive it is waiting that takes the time
        contents = pool.map(_content, filter(None, items.labels))
        rows = zip(items.names, items.sizes.tolist(), items.labels, strict=True)
        facts = (f"{name}\t{size}\t{next(contents) if label else ''}\n" for name, size, label in rows)
        digest = hashlib.sha256()
        while some := "".join(islice(facts, 1000)):
            digest.update(some.encode())
        return digest.hexdigest()


def _content(label: str) -> str:
    return hashlib.sha256(Path(label).read_bytes()).hexdigest()
