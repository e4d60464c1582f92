"""Training positions: which rank computes which, and which item a position takes; (seed, position) alone decide.

A *position* p = iteration * batch_size + slot owns one labelled image, one pair of different unlabelled images and one
CutMix mask. Workers, ranks and micro-batches only decide who computes a position.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from torch.utils.data import Sampler

from mgd.errors import UserError

LABELED, UNLABELED, PARTNER, MASK, OTHER_MASK, NOISE = range(6)  # streams of random numbers ...
SAMPLE, ORDER = range(2)  # ... and what they are used for


class PositionSampler(Sampler[list[int]]):
    """The positions of one rank's micro-batches, from `start` (iteration) to `stop`."""

    def __init__(self, start: int, stop: int, *, batch_size: int, accumulate: int, rank: int, world: int) -> None:
        parts = accumulate * world
        if batch_size % parts:
            below = batch_size // parts * parts
            near = [str(size) for size in (below, below + parts) if size]
            raise UserError(
                f"train.batch_size={batch_size} does not divide among {world} processes x {accumulate} micro-batches; "
                f"use {' or '.join(near)}"
            )
        self.start, self.stop, self.batch_size = start, stop, batch_size
        self.accumulate, self.rank, self.world = accumulate, rank, world

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        size = self.batch_size // (self.accumulate * self.world)  # 8 images / 4 processes / 1 = 2 per micro-batch
        for iteration in range(self.start, self.stop):
            for part in range(self.accumulate):
                first = iteration * self.batch_size + (self.rank * self.accumulate + part) * size
                yield list(range(first, first + size))


def draw(seed: int, stream: int, position: int, count: int) -> int:
    """Which of `count` items a position takes from a stream: a new permutation every epoch, each item once in it.

    PARTNER takes UNLABELED's permutation, rotated by 1 to count-1: every image once, and never the same as UNLABELED.
    Positions 2n and 2n + 1 of UNLABELED never take the same item, not where an epoch begins between them either.
    """
    epoch, place = divmod(position, count)
    if stream == PARTNER:
        place = (place + 1 + _rotation(seed, epoch, count)) % count
        stream = UNLABELED
    return int(_permutation(seed, stream, epoch, count)[_apart(seed, stream, epoch, place, count)])


def _apart(seed: int, stream: int, epoch: int, place: int, count: int) -> int:
    """`place`, but the first two change places where the first would follow itself within a pair of positions."""
    if stream != UNLABELED or place > 1 or epoch * count % 2 == 0:
        return place
    first, last = _permutation(seed, stream, epoch, count)[0], _permutation(seed, stream, epoch - 1, count)[-1]
    return 1 - place if first == last else place


@lru_cache(maxsize=2)
def _rotation(seed: int, epoch: int, count: int) -> int:
    return int(np.random.default_rng([seed, ORDER, PARTNER, epoch]).integers(count - 1))


@lru_cache(maxsize=4)  # this epoch's and the last one's, labelled and unlabelled: a million take 4 MB each
def _permutation(seed: int, stream: int, epoch: int, count: int) -> np.ndarray:
    order = np.arange(count, dtype=np.uint32)
    np.random.default_rng([seed, ORDER, stream, epoch]).shuffle(order)
    return order
