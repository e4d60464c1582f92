"""Which training images are labelled: every r-th of the list, as published, or chosen otherwise; the lists of it."""

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from mgd.data.datasets import PARTS, checked, divide, read_list
from mgd.data.images import load_label
from mgd.data.items import Item
from mgd.data.names import below, digest, name_of
from mgd.errors import UserError, first_few
from mgd.files import read_lines, write_json, write_lines
from mgd.metrics import IGNORE_INDEX
from mgd.parallel import in_order

NAME = "train_aug_{part}_1-{ratio}.txt"  # the published lists' name, for any data set


def partition(
    path: Path,
    *,
    root: Path,
    ratio: int,
    scheme: str,
    seed: int = 0,
    label_map: tuple[str, ...] = (),
    label_pattern: str = "",
    force: bool = False,
) -> str:
    """Write the labelled and the unlabelled list of `path` into subset_<its name> beside it.

    Args:
        path: a list in any of the formats of `mgd.config.Data`, whose bare names stand for files in the folder of its
            name, or a folder of pairs.
        root: what the list's paths are relative to.
        scheme: "stride" (published: every ratio-th), "random" or "balanced".
        label_map: what label values mean, as `data.label_map`; "balanced" alone looks at them.
        label_pattern: of the labels in a folder, as `data.label_pattern`.
        force: write over lists that are there and differ.

    Returns:
        What was written, or a warning where lists that differ were kept.

    Raises:
        UserError: the list or a file in it is missing, a label is broken, `ratio` is below 1 or `seed` below 0.
    """
    if seed < 0:
        raise UserError(f"--seed {seed} must not be negative")
    items = read_list(path, root, path.stem, labels=True, pattern=label_pattern)
    if path.is_dir():
        lines = [f"{below(root, item.image)}\t{below(root, item.label)}" for item in items if item.label]
    else:
        lines = read_lines(path)
    if scheme == "stride":
        labeled: Sequence[int] = range(0, len(items), checked(ratio))
    elif scheme == "random":
        labeled = random_places(len(items), ratio, seed)
    else:
        labeled = balanced_places(_pixels_to_balance(items, path, label_map), ratio, seed)
    pattern = path.parent / f"subset_{path.stem}" / NAME
    told = write_partition(pattern, lines, labeled, ratio=ratio, scheme=scheme, seed=seed, force=force)
    return f"{told}\ntrain with data.partition={ratio} data.partition_lists={os.path.relpath(pattern, root)}"


def random_places(count: int, ratio: int, seed: int) -> list[int]:
    """As many places as the published partition has, drawn at random."""
    size = -(-count // checked(ratio))
    return sorted(np.random.default_rng(seed).choice(count, size, replace=False).tolist())


def balanced_places(pixels: np.ndarray, ratio: int, seed: int) -> list[int]:
    """As many places as the published partition has, so that rare classes are not left out.

    One by one the image is taken that adds most to sum over classes of sqrt(share of the class's pixels chosen): the
    root makes the first pixels of a class worth most. Ties are broken at random.

    Args:
        pixels: (N,K), how many pixels of each class an image has.
    """
    count = len(pixels)
    pixels = pixels[:, pixels.any(axis=0)]  # values that no label holds would only take time
    share = pixels / np.maximum(pixels.sum(axis=0), 1)
    noise = np.random.default_rng(seed).uniform(0, 1e-9, count)
    chosen: list[int] = []
    total = np.zeros(pixels.shape[1])
    for _ in range(-(-count // checked(ratio))):
        gain = np.sqrt(total + share).sum(axis=1) + noise
        gain[chosen] = -1
        chosen.append(int(gain.argmax()))
        total += share[chosen[-1]]
    return sorted(chosen)


def _pixels_to_balance(items: Sequence[Item], path: Path, label_map: tuple[str, ...]) -> np.ndarray:
    """`count_pixels`, of labels that hold more than one class."""
    pixels = count_pixels(items, label_map)
    if len(held := np.flatnonzero(pixels.any(axis=0))) < 2:
        found = f"nothing but {first_few(held)}" if len(held) else "no value"
        raise UserError(
            f"{path}: besides {IGNORE_INDEX}, which is ignored, the labels hold {found}, so nothing can be balanced; "
            "correct them, say what they mean (masks of 0 and 255: --label-map 255=1), or use --scheme random"
        )
    return pixels


def count_pixels(items: Sequence[Item], label_map: tuple[str, ...] = ()) -> np.ndarray:
    """(N,255) int64: how many pixels of each value the mapped labels hold; 255, which is ignored, is not counted."""
    return np.stack(list(in_order(partial(_pixels, label_map), (item.label for item in items))))


def _pixels(label_map: tuple[str, ...], label: Path | None) -> np.ndarray:
    assert label is not None  # `read_list` refuses a list without labels
    values = load_label(label, IGNORE_INDEX - 1, label_map=label_map)
    return np.bincount(values.ravel(), minlength=256)[:IGNORE_INDEX]


def write_partition(
    pattern: Path,
    lines: Sequence[str],
    labeled: Sequence[int],
    *,
    ratio: int,
    scheme: str,
    seed: int,
    force: bool = False,
) -> str:
    """Write a partition's two lists, and its hash beside them; lists that are there and differ stay.

    Args:
        pattern: the lists' path with {part} and {ratio}, as in `data.partition_lists`.
        force: write over lists that differ. Lines of the same photos are brought up to date in any case.

    Returns:
        One line that tells what was done; it begins with WARNING where lists that differ were kept.
    """
    paths = [pattern.with_name(pattern.name.format(part=part, ratio=ratio)) for part in PARTS]
    parts = divide(lines, labeled)
    for path, wanted in zip(paths, parts, strict=True):
        names = [[name_of(line) for line in some] for some in (read_lines(path) if path.is_file() else wanted, wanted)]
        if not force and (told := first_difference(*names)):
            return f"WARNING: {path} is kept; it is not this partition: {told}"
    for path, wanted in zip(paths, parts, strict=True):
        if not path.is_file() or read_lines(path) != list(wanted):
            write_lines(path, wanted)
    sha256, unlabeled = (digest([name_of(line) for line in part]) for part in parts)
    record = {"scheme": scheme, "seed": seed, "ratio": ratio, "labeled": len(parts[0]), "sha256": sha256}
    record["unlabeled_sha256"] = unlabeled
    write_json(paths[0].with_suffix(".json"), record)
    return f"{paths[0]}: {len(parts[0])} labelled, {len(parts[1])} unlabelled, sha256 {sha256}"


def is_as_written(pattern: Path, ratio: int, scheme: str) -> bool:
    """Whether a partition's two lists are as `write_partition` wrote them by this scheme."""
    paths = [pattern.with_name(pattern.name.format(part=part, ratio=ratio)) for part in PARTS]
    try:
        record = json.loads(paths[0].with_suffix(".json").read_text())
        found = [digest([name_of(line) for line in read_lines(path)]) for path in paths]
        return bool(record["scheme"] == scheme and found == [record["sha256"], record["unlabeled_sha256"]])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def first_difference(found: Sequence[str], wanted: Sequence[str]) -> str:
    """Where two lists of names differ first, in words; "" when they are equal."""
    if list(found) == list(wanted):
        return ""
    pairs = zip(found, wanted, strict=False)
    line = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(found), len(wanted)))
    there, here = (repr(names[line]) if line < len(names) else "nothing" for names in (found, wanted))
    return f"line {line + 1} is {there}, not {here}"
