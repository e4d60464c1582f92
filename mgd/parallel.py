"""A function over many items on all cores, in order, in memory that does not grow with their number."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 64  # items that are under way or wait to be taken


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `function(item)` of every item; after an error of one of them the rest is not begun."""
    rest = iter(items)
    pool = ProcessPoolExecutor(os.cpu_count())
    try:
        waiting = deque(pool.submit(function, item) for item in islice(rest, AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
    finally:
        pool.shutdown(cancel_futures=True)
