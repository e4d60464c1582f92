"""Which values the label maps hold, how much of them is ignored, and what that may mean."""

from collections.abc import Iterator, Sequence

import numpy as np

from mgd.check.findings import Finding
from mgd.config import Data
from mgd.data.classes import Classes
from mgd.data.datasets import Splits
from mgd.data.images import read_indices
from mgd.data.items import Item
from mgd.data.label_map import value_table, with_ignored
from mgd.errors import UserError, first_few
from mgd.metrics import IGNORE_INDEX

FIRST = 16  # labels of each part that a training run looks at before it begins
MUCH = 0.5  # share of ignored pixels from which on it is told


def count_values(values: np.ndarray) -> np.ndarray:
    """(256,) int64: how many pixels of a label map hold each value."""
    return np.bincount(values.ravel(), minlength=256)


def ignored_values(data: Data) -> tuple[int, ...]:
    """What is ignored besides 255 among the values that are counted: with a mapping these are the mapped ones."""
    return () if data.label_map else data.ignore_values


def first_labels(data: Data, splits: Splits) -> Iterator[Finding]:
    """Warnings from the first labels of both parts. What cannot be read is left to who trains on it."""
    for part, items in {"labelled": splits.labeled, "validation": splits.val}.items():
        counts = list(_read(items[:FIRST], data))
        what = f"the first {len(counts)} labels of the {part} part"
        found = judge(what, sum(counts, np.zeros(256, np.int64)), splits.classes, ignored_values(data))
        yield from (finding for finding in found if finding.level == "warning")


def judge(what: str, counts: np.ndarray, classes: Classes, ignore_values: Sequence[int]) -> Iterator[Finding]:
    """One row on some labels, named by `what`, whose pixels of each value are counted; none where there are none."""
    if not (total := int(counts.sum())) or not classes:
        return
    ignored = sorted({IGNORE_INDEX, *ignore_values})
    share = {int(value): f"{value} ({100 * counts[value] / total:.1f} %" for value in np.flatnonzero(counts)}
    learned = [f"{words})" for value, words in share.items() if value not in ignored]
    others = [f"{words}, ignored)" for value, words in share.items() if value in ignored]
    text = f"{what} hold the values {', '.join([first_few(learned)] * bool(learned) + others)}"
    if remedy := _remedy(counts, classes, ignored):
        yield Finding("warning", "labels", f"{text}; {remedy}")
    else:
        yield Finding("ok", "labels", text)


def _remedy(counts: np.ndarray, classes: Classes, ignored: list[int]) -> str:
    """What to do about labels that are not what they seem meant to be; "" where nothing is wrong."""
    number = len(classes)
    unseen = [i for i in range(number) if i in ignored or not counts[i]]
    share = counts[ignored].sum() / counts.sum()
    few_seen = len(unseen) >= number - 1  # of masks of 0 and 255 one class is left, or none
    if wasted := [i for i in ignored if i < number and counts[i]]:
        index, name = wasted[0], classes.names[wasted[0]]
        return (
            f"{index} is class {index} ({name}) and is ignored, so it is never learned and counts as an error wherever "
            f"it is predicted: take {index} out of data.ignore_values, or the class out of data.classes"
        )
    if len(unseen) == number:
        return "no pixel of them has a class, so nothing can be learned or scored; correct them or data.ignore_values"
    if counts[IGNORE_INDEX] and (few_seen or unseen == [number - 1]):  # 255 is often meant to be the last class
        name, index = classes.names[unseen[-1]], unseen[-1]
        return (
            f"{IGNORE_INDEX} is ignored, and no pixel is of class {index} ({name}): where {IGNORE_INDEX} means {name}, "
            f"write {index} in its place (data.label_map={IGNORE_INDEX}={index})"
        )
    if few_seen:
        return f"nothing else but {classes.names[next(i for i in range(number) if i not in unseen)]}; correct them"
    if unseen == [0]:
        return f"no pixel is of class 0 ({classes.names[0]}): where the values are counted from 1, subtract 1"
    return "see that so much shall be ignored" if share >= MUCH else ""


def _read(items: Sequence[Item], data: Data) -> Iterator[np.ndarray]:
    table = value_table(with_ignored(data.label_map, data.ignore_values) if data.label_map else ())
    for item in items:
        try:
            if item.label is not None:
                yield count_values(table[read_indices(item.label)])
        except UserError:
            continue
