"""Which training images are labelled: every r-th of the list, as published."""

from collections.abc import Sequence
from typing import TypeVar

from mgd.errors import UserError

T = TypeVar("T")


def split(items: Sequence[T], ratio: int) -> tuple[list[T], list[T]]:
    """(labelled, unlabelled) of partition 1/ratio: `items[::ratio]` and the rest, both in the list's order.

    Raises:
        UserError: `ratio` below 1.
    """
    if ratio < 1:
        raise UserError(f"data.partition={ratio} must be 1 or more: 1/partition of the images is labelled")
    labeled = list(items[::ratio])
    unlabeled = [item for i, item in enumerate(items) if i % ratio]
    return labeled, unlabeled
