"""Which training images are labelled: every r-th of the list, as published, or chosen otherwise; the lists of it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from mgd.data.images import IMAGE_SUFFIXES
from mgd.errors import UserError
from mgd.files import read_text, write_json, write_text

T = TypeVar("T")
PARTS = ("labeled", "unlabeled")


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


def name_of(line: str) -> str:
    """An image's name from its line in a list: the file's stem, or the line itself where it is a bare name."""
    image = line.partition("\t")[0].strip()
    return Path(image).stem if Path(image).suffix.lower() in IMAGE_SUFFIXES else image


def digest(names: Sequence[str]) -> str:
    """sha256 of the names of the labelled images, in order: what two runs must share to have the same labels."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


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
        force: write over lists that differ.

    Returns:
        One line that tells what was done; it begins with WARNING where lists that differ were kept.
    """
    paths = [Path(str(pattern).format(part=part, ratio=ratio)) for part in PARTS]
    parts = divide(lines, labeled)
    for path, wanted in zip(paths, parts, strict=True):
        if path.is_file() and not force:
            found = [line for line in read_text(path).splitlines() if line.strip()]
            if told := first_difference(*([name_of(line) for line in lines] for lines in (found, wanted))):
                return f"WARNING: {path} is kept; it is not this partition: {told}"
    for path, wanted in zip(paths, parts, strict=True):
        if force or not path.is_file():
            write_text(path, "".join(f"{line}\n" for line in wanted))
    sha256 = digest([name_of(line) for line in parts[0]])
    record = {"scheme": scheme, "seed": seed, "ratio": ratio, "labeled": len(parts[0]), "sha256": sha256}
    write_json(paths[0].with_suffix(".json"), record)
    return f"{paths[0]}: {len(parts[0])} labelled, {len(parts[1])} unlabelled, sha256 {sha256}"


def first_difference(found: Sequence[str], wanted: Sequence[str]) -> str:
    """Where two lists of names differ first, in words; "" when they are equal."""
    if list(found) == list(wanted):
        return ""
    pairs = zip(found, wanted, strict=False)
    line = next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(found), len(wanted)))
    there, here = (repr(names[line]) if line < len(names) else "nothing" for names in (found, wanted))
    return f"line {line + 1} is {there}, not {here}"
