"""A function over many items on all cores, in order, in memory that does not grow with their number.

And what a process may know of its cores and its memory.
"""

import ctypes
import os
import re
import resource
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

from mgd.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 64  # items that are under way or wait to be taken
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # what glibc's mallopt calls them
KEPT, LARGEST_KEPT = 2**28, 2**25  # bytes in all, and in a block


def cores() -> int:
    """Cores that this process may use: fewer than the machine's in a container, a batch job or under taskset."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int:
    """Bytes that this process has held at most. (A child's ru_maxrss begins with its parent's; Linux tells its own.)"""
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return 1024 * int(found[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_freed_memory() -> None:
    """Let the C library keep what this process frees for what it allocates next, as far as it can be told (glibc can).

    By itself it gives large blocks back, and the system maps and clears each page of the next ones anew, which on a
    virtual machine can take as long as decoding the photos that they are for.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(TRIM_THRESHOLD, KEPT)
        library.mallopt(MMAP_THRESHOLD, LARGEST_KEPT)


def in_order(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `function(item)` of every item; after an error of one of them the rest is not begun.

    Raises:
        UserError: a process of the pool was killed.
    """
    rest = iter(items)
    pool = ProcessPoolExecutor(cores())
    try:
        waiting = deque(pool.submit(function, item) for item in islice(rest, AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(function, item) for item in islice(rest, 1))
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {cores()} processes that share the work was killed, most likely since memory ran out; free some "
            "or allow fewer cores (taskset -c 0), then start again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
