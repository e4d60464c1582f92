"""What lists alone tell: counts and order against what was published, the user's own partition, overlaps by name."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mgd.check.findings import Finding, Level
from mgd.config import Data, Experiment
from mgd.data.datasets import Splits, collect_errors, partition_lists, read_list, split
from mgd.data.folders import HIDDEN, REMEDIES, left_out
from mgd.data.images import IMAGE_SUFFIXES
from mgd.data.items import Items, Texts
from mgd.data.label_map import describe
from mgd.data.partitions import first_difference
from mgd.data.samples import TrainingSamples
from mgd.errors import UserError, first_few
from mgd.files import read_text
from mgd.scores import check_excluded

# Images of the training and the validation list, and labelled ones of each partition (arXiv 2208.10169).
PUBLISHED = {
    "voc": (10582, 1449, {2: 5291, 4: 2646, 8: 1323, 16: 662}),
    "city": (2975, 500, {2: 1488, 4: 744, 8: 372, 16: 186}),
}
AGAIN = "make the lists with mgd partition --force, or leave them if they are meant"


def look_at_lists(config: Experiment, splits: Splits) -> Iterator[Finding]:
    """All findings about lists that could be read."""
    yield from _counts(config.data, splits)
    yield from _partition(config.data, splits)
    yield from _names(splits, meant=config.data.unlabeled == config.data.train_list)
    yield from _left_out(config.data)
    try:
        if config.data.label_map:
            text = describe(config.data.label_map, splits.classes.names)
            yield Finding("ok", "label map", f"of the label values {text}; the others keep their number")
    except UserError:
        pass  # told where the data set was opened
    try:
        TrainingSamples(splits, config)
    except UserError as error:
        yield Finding("error", "unlabelled", str(error))
    if not splits.classes:
        return  # told where the data set was opened
    try:
        check_excluded(config.evaluate.exclude, splits.classes)
    except UserError as error:
        yield Finding("error", "exclude", str(error))


def _counts(data: Data, splits: Splits) -> Iterator[Finding]:
    if data.classes not in PUBLISHED or data.partition not in PUBLISHED[data.classes][2]:
        return
    train, val, labeled = PUBLISHED[data.classes]
    found = {"labelled": len(splits.labeled), "validation": len(splits.val)}
    wanted = {"labelled": labeled[data.partition], "validation": val}
    if not data.unlabeled:
        found["training"], wanted["training"] = len(splits.labeled) + len(splits.unlabeled), train
    wrong = [
        f"{found[name]:,} {name} images, published {wanted[name]:,}" for name in found if found[name] != wanted[name]
    ]
    names = list(splits.labeled.names)
    remedy = "make them with mgd prepare, or do not hold scores against the paper's"
    if wrong:
        yield Finding("warning", "counts", f"{splits.source}: {'; '.join(wrong)}; {remedy}")
    elif data.classes == "voc" and (told := first_difference(names, sorted(names))):
        yield Finding("warning", "order", f"{splits.source}: the published list is sorted, here {told}; {remedy}")
    else:
        yield Finding("ok", "counts", f"{splits.source}: as published")


def _partition(data: Data, splits: Splits) -> Iterator[Finding]:
    """Lists of the user's own against their record, or against the published every r-th of the training list."""
    if not (paths := partition_lists(data)):
        return
    record = paths[0].with_suffix(".json")
    if not record.is_file():
        yield _against_stride(data, splits, paths)
        return
    try:
        scheme, seed, sha256 = (json.loads(read_text(record))[key] for key in ("scheme", "seed", "sha256"))
    except (KeyError, TypeError, ValueError) as error:
        yield Finding("warning", "partition", f"{record} is no record of a partition ({error!r}); {AGAIN}")
        return
    if sha256 != splits.sha256:
        yield Finding("warning", "partition", f"{paths[0]} is not the list that {record.name} records; {AGAIN}")
    elif scheme == "stride":
        yield _against_stride(data, splits, paths)
    else:
        yield Finding("ok", "partition", f"{paths[0]}: {scheme}, seed {seed}, as recorded")


def _against_stride(data: Data, splits: Splits, paths: list[Path]) -> Finding:
    training, problems = Path(data.root) / data.train_list, list[UserError]()
    with collect_errors(problems):
        items = read_list(training, Path(data.root), data.train_folder, labels=False, problems=problems)
        labeled, unlabeled = split(list(items.images), data.partition)
        # Photos without labels follow the unlabelled list's.
        listed = splits.unlabeled[: len(unlabeled)] if data.unlabeled else splits.unlabeled
        for path, here, wanted in ((paths[0], splits.labeled, labeled), (paths[1], listed, unlabeled)):
            if told := first_difference(list(here.images), wanted):
                text = f"{path} is not one in {data.partition} of {training}: {told}; {AGAIN}"
                return Finding("warning", "partition", text)
    if problems:
        return Finding("warning", "partition", f"{paths[0]} cannot be held against the training list: {problems[0]}")
    return Finding("ok", "partition", f"{paths[0]}: one in {data.partition} of {training}")


def _names(splits: Splits, *, meant: bool) -> Iterator[Finding]:
    """Images in two parts, or twice in one: by file an error where validation is concerned, by name a warning.

    Args:
        meant: the training list is named for the unlabelled part too, so that the two are meant to overlap.
    """
    parts = {"labelled": splits.labeled, "unlabelled": splits.unlabeled, "validation": splits.val}
    images = {part: set(items.images) for part, items in parts.items()}  # once: of a million it takes a quarter second
    for part, items in parts.items():
        if twice := _twice(items.images) if len(images[part]) < len(items) else []:
            text = f"twice in the {part} part: {first_few(twice)}; take one line out of the list"
            yield Finding("warning", "overlap", text)
    if several := _of_several(splits.labeled, splits.val):
        text = f"the label of more than one image: {first_few(several)}; name each image's own"
        yield Finding("warning", "overlap", text)
    shared = False
    for one, other in (("labelled", "unlabelled"), ("labelled", "validation"), ("unlabelled", "validation")):
        files = images[one] & images[other] | _same_files(parts[one], parts[other])
        names = _common(parts[one].names, parts[other].names)
        if meant and (one, other) == ("labelled", "unlabelled"):
            continue
        shared |= bool(files or names)
        if files:
            level: Level = "error" if other == "validation" else "warning"
            remedy = "take them out of one of the lists"
            yield Finding(level, "overlap", f"{one} and {other}: {first_few(sorted(files))}; {remedy}")
        elif names:
            remedy = "see that they are not the same photos"
            text = f"names of {one} and of {other} images: {first_few(sorted(names))}; {remedy}"
            yield Finding("warning", "overlap", text)
    if not shared:
        yield Finding("ok", "overlap", "no file and no name is in two parts")


def _common(one: Texts, other: Texts) -> set[str]:
    few, many = sorted((one, other), key=len)
    return set(few).intersection(many)


def _same_files(one: Items, other: Items) -> set[str]:
    """Images of the first that are files of the second as well, under the name of a link."""
    shared = np.isin(one.states[:, 2], other.states[:, 2]) & (one.sizes >= 0)
    return {one.images[place] for place in np.flatnonzero(shared).tolist()}


def _of_several(*parts: Items) -> list[str]:
    """Labels that more than one image is said to have."""
    pairs = {pair for part in parts for pair in zip(part.images, part.labels, strict=True) if pair[1]}
    return [label for label, count in Counter(label for _, label in pairs).items() if count > 1]


def _twice(images: Texts) -> list[str]:
    """Those that are there more than once."""
    return [image for image, count in Counter(images).items() if count > 1]


def _left_out(data: Data) -> Iterator[Finding]:
    """What lies in the folders and is not taken, by reason; that systems leave files of theirs there is well."""
    for path in dict.fromkeys((data.train_list, data.val_list, data.unlabeled)):
        folder = Path(data.root) / path
        for why, files in left_out(folder).items() if path and folder.is_dir() else ():
            harmless = why == HIDDEN and not any(file.suffix.lower() in IMAGE_SUFFIXES for file in files)
            text = f"{len(files):,} left out, since {why}: {first_few(files)}"
            yield (
                Finding("ok", "folder", text) if harmless else Finding("warning", "folder", f"{text}; {REMEDIES[why]}")
            )
